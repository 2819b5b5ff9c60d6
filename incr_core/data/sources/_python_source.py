"""A source that is Python: a callable that gives the stream as tables, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from incr_core.data._local_time import LocalTime
from incr_core.data.sources._declared import plain
from incr_core.data.sources._fingerprint import size_in
from incr_core.data.sources._formats import HEAD, check_columns
from incr_core.data.sources._fragment import Fragment
from incr_core.data.sources._tables import Tables, as_table, mark_of_table
from incr_core.data.times import readable
from incr_core.errors import StreamError

__all__ = ["CallableSource"]


class CallableSource:
    """Fragments come from a Python callable that returns an iterable of tables, batches or dicts of arrays.

    They must be the same at every call, and come in time order: the iterable may be endless, so nothing looks ahead.
    Of `Tables`, that they are the same is seen when a run goes on.

    >>> [fragment.name for fragment in CallableSource(lambda: [{"x": [1.0]}, {"x": [2.0]}]).fragments()]
    ['part 0', 'part 1']
    """

    def __init__(self, factory: Callable[[], Iterable[Any]], local: LocalTime | None = None) -> None:
        self._factory, self._local = factory, local
        self._compared = isinstance(factory, Tables)
        self.names: list[str] = []
        self.marks: dict[str, str] = {}
        self.pieces: list[tuple[int, int, int]] = []
        self.young: dict[str, Path] = {}
        self.closed = False  # nothing is ever found since

    @property
    def finite(self) -> bool:
        """Whether it is known to have an end."""
        return isinstance(self._factory, Tables) and self._factory.finite

    def begin(self) -> None:
        """A run starts from the first row: forget what an earlier one has read."""
        self.marks = {}

    def resume(
        self,
        names: Sequence[str],
        marks: Mapping[str, str],
        pieces: Sequence[Sequence[int]] = (),
        refused: Mapping[str, tuple[str, int]] | None = None,
    ) -> list[int]:
        """Keep the names already known; nothing is ever found late here."""
        self.names, self.marks = list(names), dict(marks)
        return []

    def head(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Some rows of the first table that has any, to look at."""
        for number, part in enumerate(self._factory()):
            table = as_table(part, f"part {number}")
            if len(table):
                check_columns(table.column_names, columns, f"part {number}")
                return plain((table if columns is None else table.select(list(columns))).slice(0, HEAD))
        return pa.table({})

    def fragments(
        self,
        time: str | None = None,
        *,
        skip: frozenset[int] = frozenset(),
        floors: dict[int, int] | None = None,
        origin: int | None = None,
        leap: int | None = None,
        on_bad_file: Callable[[Fragment, int, Exception], None] | None = None,
    ) -> Iterator[Fragment]:
        """The fragments as they come; see `FileSource.fragments`."""
        latest = origin or 0
        for number, part in enumerate(self._factory()):
            name = f"part {number}"
            if number == len(self.names):
                self.names.append(name)
            if self._compared:  # whatever may be done about bad parts: one that has changed is another stream's
                part = as_table(part, name)
                self._meet(name, part)
            try:
                fragment = Fragment(number, name, _chunks(as_table(part, name), name, self._local))
                if time is not None:
                    # A part whose rows have no times stands where the part before it ends.
                    fragment.first, fragment.last = fragment.span(time, leap) or (latest, latest)
                    latest = max(latest, fragment.last)
            except StreamError as fault:
                if number in skip:
                    continue
                if on_bad_file is None:
                    raise
                on_bad_file(Fragment(number, name, _chunks(pa.table({}), name, None)), 0, fault)
                continue
            if number not in skip:
                yield fragment

    def name_of(self, number: int) -> str:
        """The name of a fragment."""
        return self.names[number]

    def forget_mark(self, number: int) -> None:
        """There is none."""

    def mark(self, name: str) -> str | None:
        """None of its parts changes."""
        return ""

    def _meet(self, name: str, table: pa.Table) -> None:
        mark = mark_of_table(table)
        known = self.marks.setdefault(name, mark)
        if known != mark:
            before, now = size_in(known), size_in(mark)
            change = f"{before:,} rows then, {now:,} now" if before != now else f"{now:,} rows as then, but others"
            raise StreamError(
                f"stream: {name} is not what it was when the run read it ({change}); give the same tables again, and "
                "new rows as a new table behind them"
            )

    def gone(self) -> frozenset[int]:
        """None: what a callable gives it gives again."""
        return frozenset()


def _chunks(table: pa.Table, name: str, local: LocalTime | None) -> Callable[[Sequence[str]], Iterator[pa.Table]]:
    def chunks(columns: Sequence[str]) -> Iterator[pa.Table]:
        check_columns(table.column_names, columns, name)
        found = readable(plain(table.select(list(columns))))
        yield found if local is None else local.told(found)

    return chunks
