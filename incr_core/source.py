"""A source: where rows lie, as numbered fragments (files, or the tables of a Python iterable).

Fragments are numbered by the natural order of their paths ("day-2" before "day-10"), and a number never changes:
files found later get later numbers, so row ids stay valid while a folder grows.
"""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from incr_core.clock import Instants, instants, readable
from incr_core.errors import JobError, StreamError
from incr_core.formats import (
    FORMATS,
    HEAD,
    Offsets,
    check_columns,
    format_of,
    parquet_head,
    read_chunks,
    read_rows,
    read_table,
)
from incr_core.named import load_callable

__all__ = ["CallableSource", "FileSource", "Fragment", "Source", "open_source"]


@dataclass(slots=True)
class Fragment:
    """One file or table. `first` and `last` are its times in microseconds, when a time column was asked for.

    chunks: reads some columns, a table of consecutive rows at a time; at least one table. rows: reads some columns of
    the rows at some offsets, where there is a way that does not read all of them.
    """

    number: int
    name: str
    chunks: Callable[[Sequence[str]], Iterator[pa.Table]]
    first: int = 0
    last: int = 0
    rows: Callable[[Sequence[str], Offsets], pa.Table] | None = None

    def take(self, columns: Sequence[str], offsets: Offsets) -> pa.Table:
        """Its rows at `offsets` (n,), in their order."""
        return self.load(columns).take(pa.array(offsets)) if self.rows is None else self.rows(columns, offsets)

    def load(self, columns: Sequence[str]) -> pa.Table:
        """All its rows, of some columns."""
        return pa.concat_tables(self.chunks(columns))


class FileSource:
    """Fragments are files; only the columns asked for are read.

    sizes: the bytes of each file when it was first read. A file that has another size when it is read again is refused:
    its rows would not be those that were learned.

    >>> FileSource({"a.csv": Path("data/a.csv")}, "csv").names
    ['a.csv']
    """

    def __init__(self, paths: dict[str, Path], format: str | None) -> None:
        self.paths = paths
        self.names = list(paths)
        self.sizes: dict[str, int] = {}
        self._format = format

    @property
    def is_csv(self) -> bool:
        """Whether the file that `head` begins with is CSV, whose types are a guess."""
        return (self._format or next((format_of(path) for path in self.paths.values()), None)) == "csv"

    def begin(self) -> None:
        """A run starts from the first row: forget what an earlier one has read."""
        self.sizes = {}

    def resume(self, names: Sequence[str], sizes: Mapping[str, int]) -> list[int]:
        """Give the fragments of an earlier run the numbers they had; returns the numbers of those found since.

        Raises StreamError where a file of that run is there with another size.
        """
        known = set(names)
        self.sizes = dict(sizes)
        for name in sizes:
            path = self.paths.get(name)
            if path is not None and path.exists():
                self._meet(name, path)
        self.names = [*names, *(name for name in self.paths if name not in known)]
        return list(range(len(names), len(self.names)))

    def head(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Some rows of the first file that has any, to look at."""
        table = pa.table({})
        for name, path in self.paths.items():
            if (self._format or format_of(path)) == "parquet":
                table = parquet_head(path, columns, name)
            else:
                table = read_table(path, columns, self._format, name).slice(0, HEAD)
            if len(table):
                break
        return table

    def fragments(
        self,
        time: str | None = None,
        *,
        skip: frozenset[int] = frozenset(),
        floors: dict[int, int] | None = None,
        origin: int | None = None,
    ) -> Iterator[Fragment]:
        """The fragments in number order or, with a `time` column, in the order of their first times.

        skip: fragments no longer needed; their files may be gone.
        floors: fragment -> a time; no row of that fragment counts as earlier (it was found late).
        origin: the time of a fragment none of whose rows has one.
        """
        found = [self._fragment(number, name, time) for number, name in enumerate(self.names) if number not in skip]
        if time is None:
            yield from (fragment for fragment, _ in found)
            return
        if origin is None:
            origin = min((span[0] for _, span in found if span), default=0)
        for fragment, span in found:
            floor = (floors or {}).get(fragment.number, origin)
            fragment.first, fragment.last = (max(edge, floor) for edge in span or (origin, origin))
        yield from sorted((fragment for fragment, _ in found), key=lambda fragment: (fragment.first, fragment.number))

    def _fragment(self, number: int, name: str, time: str | None) -> tuple[Fragment, tuple[int, int] | None]:
        path = self.paths.get(name)
        if path is None or not path.exists():
            raise StreamError(
                f"stream.path: expected {name}, which the run has not finished with, but it is gone; put it back"
            )

        def chunks(columns: Sequence[str]) -> Iterator[pa.Table]:
            self._meet(name, path)
            return read_chunks(path, columns, self._format, name)

        def rows(columns: Sequence[str], offsets: Offsets) -> pa.Table:
            self._meet(name, path)
            return read_rows(path, columns, self._format, name, offsets)

        fragment = Fragment(number, name, chunks, rows=rows)
        return fragment, None if time is None else _span(fragment.load([time]), time, name)

    def gone(self) -> frozenset[int]:
        """The numbers of files that are not there any more."""
        there = {name for name, path in self.paths.items() if path.exists()}
        return frozenset(number for number, name in enumerate(self.names) if name not in there)

    def _meet(self, name: str, path: Path) -> None:
        size = path.stat().st_size
        known = self.sizes.setdefault(name, size)
        if known != size:
            raise StreamError(
                f"stream.path: {name} has changed since the run read it ({known} bytes then, {size} now); "
                "put it back, and add new rows as a new file"
            )


class CallableSource:
    """Fragments come from a Python callable that returns an iterable of tables, batches or dicts of arrays.

    They must be the same at every call, and come in time order: the iterable may be endless, so nothing looks ahead.

    >>> [fragment.name for fragment in CallableSource(lambda: [{"x": [1.0]}, {"x": [2.0]}]).fragments()]
    ['part 0', 'part 1']
    """

    def __init__(self, factory: Callable[[], Iterable[Any]]) -> None:
        self._factory = factory
        self.names: list[str] = []
        self.sizes: dict[str, int] = {}

    def begin(self) -> None:
        """Nothing to forget."""

    def resume(self, names: Sequence[str], sizes: Mapping[str, int]) -> list[int]:
        """Keep the names already known; nothing is ever found late here."""
        self.names = list(names)
        return []

    def head(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Some rows of the first table that has any, to look at."""
        for number, part in enumerate(self._factory()):
            table = _table(part, f"part {number}")
            if len(table):
                check_columns(table.column_names, columns, f"part {number}")
                return (table if columns is None else table.select(list(columns))).slice(0, HEAD)
        return pa.table({})

    def fragments(
        self,
        time: str | None = None,
        *,
        skip: frozenset[int] = frozenset(),
        floors: dict[int, int] | None = None,
        origin: int | None = None,
    ) -> Iterator[Fragment]:
        """The fragments as they come; see `FileSource.fragments`."""
        latest = origin or 0
        for number, part in enumerate(self._factory()):
            name = f"part {number}"
            if number == len(self.names):
                self.names.append(name)
            fragment = Fragment(number, name, _chunks(_table(part, name), name))
            if time is not None:
                # A part whose rows have no times stands where the part before it ends.
                fragment.first, fragment.last = _span(fragment.load([time]), time, name) or (latest, latest)
                latest = max(latest, fragment.last)
            if number not in skip:
                yield fragment

    def gone(self) -> frozenset[int]:
        """None: what a callable gives it gives again."""
        return frozenset()


Source = FileSource | CallableSource


def open_source(source: str | Path | Callable[[], Iterable[Any]], format: str | None = None) -> Source:
    """Find the fragments of a file, a folder, a glob, "module:factory" or a callable.

    >>> open_source("nowhere/at/all")
    Traceback (most recent call last):
    ...
    incr_core.errors.StreamError: stream.path: expected a file, a folder or a glob, got "nowhere/at/all", where nothing
    is; check the path (relative paths start at ...)
    """
    if format is not None and format not in FORMATS:
        raise JobError(f"stream.format: expected one of {', '.join(FORMATS)}, got {format!r}")
    if callable(source):
        return CallableSource(source)
    text = str(source)
    path = Path(text).expanduser()
    if path.is_file():
        return FileSource({path.name: path}, format or format_of(path, strict=True))
    if path.is_dir():
        return FileSource(_inside(path, path.rglob("*"), format), format)
    if glob.has_magic(text):
        root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        found = map(Path, glob.glob(str(path), recursive=True))
        return FileSource(_inside(root, found, format), format)
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        return CallableSource(load_callable(text, "stream.path", error=StreamError))
    raise StreamError(
        f'stream.path: expected a file, a folder or a glob, got "{text}", where nothing is; '
        f"check the path (relative paths start at {Path.cwd()})"
    )


def _inside(root: Path, found: Iterable[Path], format: str | None) -> dict[str, Path]:
    """The data files among `found`, by their name within `root`; names that begin with "." or "_" are not data."""
    paths = {
        path.relative_to(root).as_posix(): path
        for path in found
        if path.is_file()
        and not any(part.startswith((".", "_")) for part in path.relative_to(root).parts)
        and (format_of(path) is not None if format is None else path.name.endswith(FORMATS[format]))
    }
    if not paths:
        kinds = ", ".join(FORMATS) if format is None else format
        raise StreamError(f"stream.path: expected files of a known kind ({kinds}) in {root}, got none")
    return {name: paths[name] for name in sorted(paths, key=_natural)}


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that compares the numbers in a name as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _table(part: object, name: str) -> pa.Table:
    if isinstance(part, pa.Table):
        return part
    if isinstance(part, pa.RecordBatch):
        return pa.Table.from_batches([part])
    if isinstance(part, dict):
        return pa.table({key: _column(value) for key, value in part.items()})
    raise StreamError(
        f"{name}: expected a pyarrow Table or RecordBatch or a dict of arrays, got {type(part).__name__}; "
        "convert it in the factory"
    )


def _column(value: Any) -> Any:
    """An array of (B, ...) values as a column of B lists."""
    if isinstance(value, np.ndarray) and value.ndim > 1:
        flat = value.reshape(len(value), -1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    return value


def _chunks(table: pa.Table, name: str) -> Callable[[Sequence[str]], Iterator[pa.Table]]:
    def chunks(columns: Sequence[str]) -> Iterator[pa.Table]:
        check_columns(table.column_names, columns, name)
        yield readable(table.select(list(columns)))

    return chunks


def _span(table: pa.Table, time: str, name: str) -> tuple[int, int] | None:
    read: Instants = instants(table[time], f"stream.predict_at.{time} in {name}")
    times = read.values[read.known]
    return (int(times.min()), int(times.max())) if len(times) else None
