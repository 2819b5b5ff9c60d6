"""A Python source: a callable that returns the stream as consecutive tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from incr_core.data._local_time import LocalTime
from incr_core.data._prepare import Prepare
from incr_core.data.sources._declared import plain
from incr_core.data.sources._earlier_times import EarlierTimes
from incr_core.data.sources._fingerprint import change_between
from incr_core.data.sources._formats import HEAD, check_columns
from incr_core.data.sources._fragment import Fragment
from incr_core.data.sources._source import Source
from incr_core.data.sources._tables import Tables, as_table, table_fingerprint
from incr_core.data.times import readable
from incr_core.errors import StreamError

__all__ = ["PythonSource"]


class PythonSource(Source):
    """Fragments come from a Python callable that returns an iterable of tables, batches or dicts of arrays.

    The tables must be the same at every call, and in time order. The iterable may be endless, so it is not read ahead.
    With `Tables`, equality is checked when a run resumes.

    Args:
        factory: The callable.
        local: Meaning of times without a zone.
        prepare: Function of the tables.

    Example:
        >>> [fragment.name for fragment in PythonSource(lambda: [{"x": [1.0]}, {"x": [2.0]}]).fragments()]
        ['part 0', 'part 1']
    """

    def __init__(
        self, factory: Callable[[], Iterable[Any]], local: LocalTime | None = None, prepare: Prepare | None = None
    ) -> None:
        super().__init__(local)
        self._prepare = prepare
        self._factory = factory
        self._is_compared = isinstance(factory, Tables)

    @property
    def finite(self) -> bool:
        """Whether the source is known to end."""
        return isinstance(self._factory, Tables) and self._factory.finite

    def resume(
        self,
        names: Sequence[str],
        fingerprints: Mapping[str, str],
        appended: Sequence[Sequence[int]] = (),
        rejected: Mapping[str, tuple[str, int]] | None = None,
    ) -> list[int]:
        """Keep the known names; this source has no late fragments."""
        self.names, self.fingerprints = list(names), dict(fingerprints)
        return []

    def head(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return some rows of the first usable non-empty table, for inspection."""
        fault: StreamError | None = None
        for number, given in enumerate(self._factory()):
            try:
                table = self._prepared(as_table(given, f"part {number}"), f"part {number}")
                check_columns(table.column_names, columns if len(table) else (), f"part {number}")
            except StreamError as found:  # the stream will report it, or quarantine the table
                fault = fault or found
                continue
            if len(table):
                return plain((table if columns is None else table.select(list(columns))).slice(0, HEAD))
        if fault is not None:
            raise fault
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
        """The fragments as they come; see `Source.fragments`."""
        latest, earlier = origin or 0, EarlierTimes()
        for number, given in enumerate(self._factory()):
            name = f"part {number}"
            if number == len(self.names):
                self.names.append(name)
            if self._is_compared:  # even if bad tables are tolerated: a changed table belongs to another stream
                given = as_table(given, name)
                self._check(name, given)
            try:
                table = self._prepared(as_table(given, name), name)
                fragment = Fragment(number, name, _chunks(table, name, self.local), earlier=earlier)
                earlier = earlier.and_then(fragment.chunks, len(table))
                if time is not None:
                    # A table without times gets the last time of the table before it.
                    fragment.first, fragment.last = fragment.times(time, leap) or (latest, latest)
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

    def _prepared(self, table: pa.Table, name: str) -> pa.Table:
        return table if self._prepare is None else self._prepare(plain(table), name)

    def drop_fingerprint(self, number: int) -> None:
        """Keep it: a table must be the same at every call, whether it is usable or not."""

    def _check(self, name: str, table: pa.Table) -> None:
        now = table_fingerprint(table)
        known = self.fingerprints.setdefault(name, now)
        if known != now:
            raise StreamError(
                f"stream: {name} has changed since the run read it ({change_between(known, now, 'rows')}); give the "
                "same tables again, and new rows as a new table after them"
            )


def _chunks(table: pa.Table, name: str, local: LocalTime | None) -> Callable[[Sequence[str]], Iterator[pa.Table]]:
    def chunks(columns: Sequence[str]) -> Iterator[pa.Table]:
        check_columns(table.column_names, columns, name)
        found = readable(plain(table.select(list(columns))))
        yield found if local is None else local.in_zone(found)

    return chunks
