"""A source: where rows lie, as numbered fragments (files, or the tables of a Python iterable).

Fragments are numbered by the natural order of their paths ("day-2" before "day-10"), and a number never changes:
files found later get later numbers, so row ids stay valid while a folder grows. Rows appended to a file of a format
that has no end (CSV, JSON lines) are a fragment by themselves, with the file's row ids going on.
"""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from incr_core._util import Catalogue, unknown
from incr_core.data._local_time import LocalTime
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
    rows_in,
)
from incr_core.data.sources._fragment import Fragment
from incr_core.data.sources._python_source import CallableSource
from incr_core.data.sources._settling import grew, is_growable, is_young
from incr_core.errors import ArgumentError, StreamError

__all__ = ["FileSource", "Source", "open_source"]

SOURCES: Catalogue[Callable[..., Any]] = Catalogue("a source of rows", {}, "incr.sources", error=StreamError)
"""Functions that `stream.path` can name instead of files."""

Piece = tuple[int, int, int]
"""Rows appended to a file: its number, and the offsets in it of the first of them and of their first byte."""

FIRST_PIECE = 1 << 22
"""The numbers of pieces begin behind those of files."""


class FileSource:
    """Fragments are files; only the columns asked for are read.

    marks: what each file was when it was first read (`mark_of`). A file that is another when it is read again is
    refused: its rows would not be those that were learned. tolerant: whether files that cannot be read are passed over
    by who only looks at the data. settle: how many seconds a file must not have been written to, or it is left for
    later (`settling.is_young`); those that are not known already, and wait, are `young`. pieces: rows that were
    appended to files since they were first read. local: what times mean that do not say their zone. closed: whether
    `resume` leaves for later what was found since.

    >>> FileSource({"a.csv": Path("data/a.csv")}, "csv").names
    ['a.csv']
    """

    def __init__(
        self,
        paths: dict[str, Path],
        format: str | None,
        tolerant: bool = False,
        settle: float = 0.0,
        local: LocalTime | None = None,
    ) -> None:
        self.paths, self.tolerant, self.local = paths, tolerant, local
        self._format = format
        self.young = {
            name: path for name, path in paths.items() if settle and is_young(path, format or format_of(path), settle)
        }
        self.names = [name for name in paths if name not in self.young]
        self.marks: dict[str, str] = {}
        self.pieces: list[Piece] = []
        self.closed = False

    def kind(self, name: str) -> str | None:
        """The format of one of its files."""
        return self._format or format_of(Path(name))

    @property
    def is_csv(self) -> bool:
        """Whether the file that `head` begins with is CSV, whose types are a guess."""
        return (self._format or next((format_of(path) for path in self.paths.values()), None)) == "csv"

    def begin(self) -> None:
        """A run starts from the first row: forget what an earlier one has read."""
        self.marks, self.pieces = {}, []

    def resume(
        self,
        names: Sequence[str],
        marks: Mapping[str, str],
        pieces: Sequence[Sequence[int]] = (),
        refused: Mapping[str, tuple[str, int]] | None = None,
    ) -> list[int]:
        """Give the fragments of an earlier run the numbers they had; returns the numbers of those found since.

        refused: fragment -> what its file was when it could not be used; None where nobody wants what is found since.
        Raises StreamError where a file of that run is not what it was.
        """
        known = set(names)
        self.names = [*names, *(name for name in self.names if name not in known and not self.closed)]
        self.marks = dict(marks)
        self.pieces = [(number, row, byte) for number, row, byte in pieces]
        late = []
        for name in marks:
            path = self.paths.get(name)
            if path is not None and path.exists():
                self._meet(name, path)
                if self.closed:
                    continue
                if refused is not None and name not in self.young and self._has_grown(name, path, names, refused):
                    late.append(self._piece(names.index(name), path))
        return [*late, *range(len(names), len(self.names))]

    def _has_grown(self, name: str, path: Path, names: Sequence[str], refused: Mapping[str, tuple[str, int]]) -> bool:
        """Whether rows were appended to a file that nobody has tried to read."""
        mark = mark_of(path)
        tried = {
            refused[str(number)][0]
            for number, (file, _, _) in enumerate(self.pieces, FIRST_PIECE)
            if names[file] == name and str(number) in refused
        }
        return mark != self.marks[name] and mark not in tried

    def _piece(self, number: int, path: Path) -> int:
        """The number of a new piece, of what was appended to a file."""
        name = self.names[number]
        size = size_in(self.marks[name])
        row, byte = 0, 0
        for file, first, start in self.pieces:
            if file == number and start < size:
                row, byte = first, start
        row += rows_in(path, self._format, name, (byte, size))
        self.marks[name] = mark_of(path)
        self.pieces = [*self.pieces, (number, row, size)]
        return FIRST_PIECE + len(self.pieces) - 1

    @property
    def numbers(self) -> list[int]:
        """The numbers of its fragments: files, then pieces."""
        return [*range(len(self.names)), *range(FIRST_PIECE, FIRST_PIECE + len(self.pieces))]

    def name_of(self, number: int) -> str:
        """The name of the file that a fragment is, or is of."""
        return self.names[number if number < FIRST_PIECE else self.pieces[number - FIRST_PIECE][0]]

    def forget_mark(self, number: int) -> None:
        """A fragment that cannot be used is not known; of an appended piece, the file before it still is."""
        name = self.name_of(number)
        mark = self.marks.pop(name, None)
        if mark is not None and number >= FIRST_PIECE:
            self.marks[name] = mark_of(self.paths[name], self.pieces[number - FIRST_PIECE][2])

    def head(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Some rows of the first file that has any, to look at."""
        table = pa.table({})
        for table in self.heads(columns):
            if len(table):
                break
        return table

    def heads(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Some rows of each file, to look at. StreamError where none can be read."""
        fault: StreamError | None = None
        read = False
        for name, path in self.paths.items():
            if name in self.young:
                continue
            try:
                if (self._format or format_of(path)) == "parquet":
                    table = parquet_head(path, columns, name)
                else:
                    table = read_table(path, columns, self._format, name).slice(0, HEAD)
            except StreamError as found:
                if not self.tolerant:
                    raise
                fault = fault or found
                continue
            read = True
            yield table
        if fault is not None and not read:
            raise fault

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
        """The fragments in the order of numbers, found late behind others, or, with a `time` column, of their first
        times.

        skip: fragments no longer needed; their files may be gone.
        floors: fragment -> a time; no row of that fragment counts as earlier (it was found late).
        origin: the time of a fragment none of whose rows has one. leap: no time that `leaps` further counts.
        on_bad_file: told of those whose times cannot be read, which are left out; else that is raised.
        """
        fragments = [self._fragment(number) for number in self.numbers if number not in skip]
        late = {number: place for place, number in enumerate(floors or ())}
        fragments.sort(key=lambda fragment: (late.get(fragment.number, -1), fragment.number))
        if time is None:
            yield from fragments
            return
        found = []
        for fragment in fragments:
            try:
                found.append((fragment, fragment.span(time, leap)))
            except StreamError as fault:
                if on_bad_file is None:
                    raise
                on_bad_file(fragment, 0, fault)
        if origin is None:
            origin = min((span[0] for _, span in found if span), default=0)
        for fragment, span in found:
            floor = (floors or {}).get(fragment.number, origin)
            fragment.first, fragment.last = (max(edge, floor) for edge in span or (origin, origin))
        yield from sorted((fragment for fragment, _ in found), key=lambda fragment: (fragment.first, fragment.number))

    def _fragment(self, number: int) -> Fragment:
        name = self.name_of(number)
        path = self.paths.get(name)
        if path is None or not path.exists():
            raise StreamError(
                f"stream.path: expected {name}, which the run has not finished with, but it is gone; put it back"
            )

        file, row, byte = (number, 0, 0) if number < FIRST_PIECE else self.pieces[number - FIRST_PIECE]
        later = [piece for piece in self.pieces if piece[0] == file and piece[2] > byte]

        def chunks(columns: Sequence[str]) -> Iterator[pa.Table]:
            self._meet(name, path)
            end = min((start for _, _, start in later), default=size_in(self.marks[name]))
            part = (byte, end) if byte or end < path.stat().st_size else None
            found = read_chunks(path, columns, self._format, name, part if self._grows(name) else None)
            return found if self.local is None else map(self.local.told, found)

        def rows(columns: Sequence[str], offsets: Offsets) -> pa.Table:
            self._meet(name, path)
            found = read_rows(path, columns, self._format, name, offsets)
            return found if self.local is None else self.local.told(found)

        if not self._grows(name):
            return Fragment(number, name, chunks, rows=rows)
        stop = min((first for _, first, _ in later), default=None)
        return Fragment(number, name, chunks, of=file, start=row, stop=stop)

    def _grows(self, name: str) -> bool:
        return is_growable(name, self.kind(name))

    def mark(self, name: str) -> str | None:
        """The mark of a file as it is now; None where it is gone, "" where it cannot be opened."""
        path = self.paths.get(name)
        try:
            return mark_of(path) if path is not None and path.exists() else None
        except OSError:
            return ""

    def gone(self) -> frozenset[int]:
        """The numbers of files that are not there any more."""
        there = {name for name, path in self.paths.items() if path.exists()}
        return frozenset(number for number in self.numbers if self.name_of(number) not in there)

    def _meet(self, name: str, path: Path) -> None:
        try:
            mark = mark_of(path)
        except OSError as error:
            raise StreamError(
                f"{name}: expected a file that can be read, got: {error.strerror}; change its permissions, or take it "
                "out of the stream"
            ) from error
        known = self.marks.setdefault(name, mark)
        if self._is_another(name, path, known, mark):
            before, now = size_in(known), size_in(mark)
            change = f"{before} bytes then, {now} now" if before != now else f"{now} bytes as then, but others"
            raise StreamError(
                f"stream.path: {name} has changed since the run read it ({change}); "
                "put it back, and add new rows as a new file"
            )

    def _is_another(self, name: str, path: Path, known: str, mark: str) -> bool:
        return known != mark and not (self._grows(name) and grew(path, known))

    def changed(self, marks: Mapping[str, str]) -> dict[str, str]:
        """The files that are neither what had these marks nor that and more behind it, and what each is now."""
        there = {name: self.mark(name) for name in marks}
        return {
            name: mark
            for name, mark in there.items()
            if mark is not None and (not mark or self._is_another(name, self.paths[name], marks[name], mark))
        }


Source = FileSource | CallableSource


def open_source(
    source: str | Path | Callable[[], Iterable[Any]],
    format: str | None = None,
    *,
    tolerant: bool = False,
    settle: float = 0.0,
    local: LocalTime | None = None,
) -> Source:
    """Find the fragments of a file, a folder, a glob, "module:factory" or a callable.

    tolerant: who looks at the data passes over files that cannot be read (`on_bad_file = "quarantine"`).
    settle: files that were written to within so many seconds wait (`FileSource.young`). local: what times mean
    that do not say their zone.

    >>> open_source("nowhere/at/all")
    Traceback (most recent call last):
    ...
    incr_core.errors.StreamError: stream.path: expected a file, a folder or a glob, got "nowhere/at/all", where nothing
    is; check the path (relative paths start at ...)
    """
    if format is not None and format not in FORMATS:
        raise ArgumentError(f"stream.format: {unknown('a format', format, FORMATS)}")
    if callable(source):
        return CallableSource(source, local)
    text = str(source)
    path = Path(text).expanduser()
    try:
        if path.is_file():
            return FileSource({path.name: path}, format or format_of(path, strict=True), tolerant, settle, local)
        if path.is_dir():
            return FileSource(_inside(path, path.rglob("*"), format), format, tolerant, settle, local)
        if glob.has_magic(text):
            root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
            found = map(Path, glob.glob(str(path), recursive=True))
            return FileSource(_inside(root, found, format), format, tolerant, settle, local)
    except OSError as error:
        raise StreamError(
            f"stream.path: expected files that can be read in {text}, got: {error.strerror} ({error.filename}); "
            "change its permissions, or name another path"
        ) from error
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text) or (text.isidentifier() and text in SOURCES.plugins()):
        return CallableSource(SOURCES.find(text, "stream.path"), local)
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
    for name in paths:
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # how Python keeps bytes that are no UTF-8
            raise StreamError(f"stream.path: expected names in UTF-8, got {name} in {root}; rename it or take it out")
    return {name: paths[name] for name in sorted(paths, key=_natural)}


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that compares the numbers in a name as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]
