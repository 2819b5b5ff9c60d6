"""A source: where rows lie, as numbered fragments (files, or the tables of a Python iterable).

Fragments are numbered by the natural order of their paths ("day-2" before "day-10"), and a number never changes:
files found later get later numbers, so row ids stay valid while a folder grows.
"""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from incr_core._util import load_callable
from incr_core.data.sources._fingerprint import mark_of, size_in
from incr_core.data.sources._formats import (
    FORMATS,
    HEAD,
    Offsets,
    format_of,
    parquet_head,
    read_chunks,
    read_rows,
    read_table,
)
from incr_core.data.sources._fragment import Fragment
from incr_core.data.sources._python_source import CallableSource
from incr_core.errors import JobError, StreamError

__all__ = ["FileSource", "Source", "open_source"]


class FileSource:
    """Fragments are files; only the columns asked for are read.

    marks: what each file was when it was first read (`mark_of`). A file that is another when it is read again is
    refused: its rows would not be those that were learned.

    >>> FileSource({"a.csv": Path("data/a.csv")}, "csv").names
    ['a.csv']
    """

    def __init__(self, paths: dict[str, Path], format: str | None) -> None:
        self.paths = paths
        self.names = list(paths)
        self.marks: dict[str, str] = {}
        self._format = format

    @property
    def is_csv(self) -> bool:
        """Whether the file that `head` begins with is CSV, whose types are a guess."""
        return (self._format or next((format_of(path) for path in self.paths.values()), None)) == "csv"

    def begin(self) -> None:
        """A run starts from the first row: forget what an earlier one has read."""
        self.marks = {}

    def resume(self, names: Sequence[str], marks: Mapping[str, str]) -> list[int]:
        """Give the fragments of an earlier run the numbers they had; returns the numbers of those found since.

        Raises StreamError where a file of that run is not what it was.
        """
        known = set(names)
        self.marks = dict(marks)
        for name in marks:
            path = self.paths.get(name)
            if path is not None and path.exists():
                self._meet(name, path)
        self.names = [*names, *(name for name in self.paths if name not in known)]
        return list(range(len(names), len(self.names)))

    def head(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Some rows of the first file that has any, to look at."""
        table = pa.table({})
        for table in self.heads(columns):
            if len(table):
                break
        return table

    def heads(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Some rows of each file, to look at."""
        for name, path in self.paths.items():
            if (self._format or format_of(path)) == "parquet":
                yield parquet_head(path, columns, name)
            else:
                yield read_table(path, columns, self._format, name).slice(0, HEAD)

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
        return fragment, None if time is None else fragment.span(time)

    def gone(self) -> frozenset[int]:
        """The numbers of files that are not there any more."""
        there = {name for name, path in self.paths.items() if path.exists()}
        return frozenset(number for number, name in enumerate(self.names) if name not in there)

    def _meet(self, name: str, path: Path) -> None:
        mark = mark_of(path)
        known = self.marks.setdefault(name, mark)
        if known != mark:
            before, now = size_in(known), size_in(mark)
            change = f"{before} bytes then, {now} now" if before != now else f"{now} bytes as then, but others"
            raise StreamError(
                f"stream.path: {name} has changed since the run read it ({change}); "
                "put it back, and add new rows as a new file"
            )


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
    try:
        if path.is_file():
            return FileSource({path.name: path}, format or format_of(path, strict=True))
        if path.is_dir():
            return FileSource(_inside(path, path.rglob("*"), format), format)
        if glob.has_magic(text):
            root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
            found = map(Path, glob.glob(str(path), recursive=True))
            return FileSource(_inside(root, found, format), format)
    except OSError as error:
        raise StreamError(
            f"stream.path: expected files that can be read in {text}, got: {error.strerror} ({error.filename}); "
            "change its permissions, or name another path"
        ) from error
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
