"""A source of files: the existing files, their fingerprints when first read, and rows appended since.

Files are numbered by the natural order of their paths ("day-2" before "day-10"); files found later follow. Rows
appended to a file of a format without an end (CSV, JSON lines) are a separate fragment, with row ids that continue the
file's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa

from incr_core.data._local_time import LocalTime
from incr_core.data._prepare import Prepare
from incr_core.data.sources._fingerprint import change_between, file_fingerprint, size_in
from incr_core.data.sources._formats import (
    HEAD,
    Offsets,
    format_of,
    parquet_head,
    parts_of,
    read_chunks,
    read_rows,
    read_table,
    rows_in,
)
from incr_core.data.sources._fragment import Fragment
from incr_core.data.sources._remote_file import File
from incr_core.data.sources._settling import grew, is_growable, is_young
from incr_core.data.sources._shared_reads import SharedReads
from incr_core.data.sources._source import Appended, Source
from incr_core.errors import StreamError

__all__ = ["FileSource"]

FIRST_APPENDED = 1 << 22
"""First number of appended rows, above those of files."""


class FileSource(Source):
    """Fragments are files, or rows appended to them; only the requested columns are read.

    Args:
        paths: The files by name.
        format: Their format; None uses their names.
        tolerant: Whether `head` skips unreadable files.
        settle: Files written within this many seconds (`is_young`) wait, unless an earlier run knows them.
        local: Meaning of times without a zone.
        reads: Tables decoded by other readers of the same stream.
        called: Names of columns in the files, if they differ.
        prepare: Function of the tables, under the names of `called`. All columns are read for it.

    Example:
        >>> from pathlib import Path
        >>> FileSource({"a.csv": Path("data/a.csv")}, "csv").names
        ['a.csv']
    """

    def __init__(
        self,
        paths: Mapping[str, File],
        format: str | None,
        tolerant: bool = False,
        settle: float = 0.0,
        local: LocalTime | None = None,
        reads: SharedReads | None = None,
        called: Mapping[str, str] | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        super().__init__(local)
        self._prepare = prepare
        self._called = dict(called or {})
        self._names = {own: name for name, own in self._called.items()}
        self._reads = reads
        self.paths, self.tolerant = dict(paths), tolerant
        self._format = format
        self.young = {
            name: path for name, path in paths.items() if settle and is_young(path, format or format_of(path), settle)
        }
        self.names = [name for name in paths if name not in self.young]

    # -- existing files

    def format_of(self, name: str) -> str | None:
        """Return the format of one of its files."""
        return self._format or format_of(name)

    @property
    def is_csv(self) -> bool:
        """Whether the first file is CSV, whose types are inferred."""
        return (self._format or next((format_of(path) for path in self.paths.values()), None)) == "csv"

    @property
    def numbers(self) -> list[int]:
        """Numbers of its fragments: files, then appended rows."""
        return [*range(len(self.names)), *range(FIRST_APPENDED, FIRST_APPENDED + len(self.appended))]

    def name_of(self, number: int) -> str:
        """Return the name of a fragment's file, or of the file to which it was appended."""
        return self.names[number if number < FIRST_APPENDED else self.appended[number - FIRST_APPENDED].file]

    def gone(self) -> frozenset[int]:
        """Return the numbers of files that no longer exist."""
        there = {name for name, path in self.paths.items() if path.exists()}
        return frozenset(number for number in self.numbers if self.name_of(number) not in there)

    def head(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return some rows of the first non-empty file, for inspection."""
        table = pa.table({})
        for table in self.heads(columns):
            if len(table):
                break
        return table

    def heads(self, columns: Sequence[str] | None = None, *, typed: bool = False) -> Iterator[pa.Table]:
        """Yield some rows of each file, for inspection.

        Args:
            columns: The columns; None for all.
            typed: For Parquet files, skip columns that a file lacks or that have no type, without reading rows. For
                other formats all columns are returned.

        Raises:
            StreamError: No file can be read.
        """
        fault: StreamError | None = None
        read = False
        for name in self.paths:
            if name in self.young:
                continue
            try:
                table = self.head_of(name, columns, typed=typed)
            except StreamError as found:
                if not self.tolerant:
                    raise
                fault = fault or found
                continue
            read = True
            yield table
        if fault is not None and not read:
            raise fault

    def head_of(self, name: str, columns: Sequence[str] | None = None, *, typed: bool = False) -> pa.Table:
        """Some rows of one file, to look at, as `heads` gives them. StreamError where it cannot be read."""
        path, own = self.paths[name], self._own(columns)
        typed = typed and self._prepare is None
        if (self._format or format_of(path)) == "parquet":
            return self._named(parquet_head(path, own, name, typed), columns, name)
        table = read_table(path, None if typed else own, self._format, name).slice(0, HEAD)
        return self._named(table, columns, name)

    # -- what columns are called

    def _own(self, columns: Sequence[str] | None) -> list[str] | None:
        """Return the columns of the files that are read for these columns; None for all."""
        if self._prepare is not None:
            return list(self._called.values()) or None
        return None if columns is None else [self._called.get(name, name) for name in columns]

    def _named(self, table: pa.Table, columns: Sequence[str] | None, name: str) -> pa.Table:
        """Return a table of a file with the names of the job, prepared."""
        if self._names:
            table = table.rename_columns([self._names.get(own, own) for own in table.column_names])
        return table if self._prepare is None else self._prepare.columns(table, columns, name)

    def _as_asked(self, table: pa.Table, columns: Sequence[str], name: str) -> pa.Table:
        """Return a table with the requested columns, and with times in their zone."""
        table = self._named(table, columns, name)
        return table if self.local is None else self.local.in_zone(table)

    # -- what a run has read of it

    def resume(
        self,
        names: Sequence[str],
        fingerprints: Mapping[str, str],
        appended: Sequence[Sequence[int]] = (),
        rejected: Mapping[str, tuple[str, int]] | None = None,
    ) -> list[int]:
        """Number the files of an earlier run as before, and the new ones after them; see `Source.resume`."""
        known = set(names)
        self.names = [*names, *(name for name in self.names if name not in known and not self.closed)]
        self.fingerprints = dict(fingerprints)
        self.appended = [Appended(*row) for row in appended]
        late = []
        for name in fingerprints:
            path = self.paths.get(name)
            if path is not None and path.exists():
                self._check(name, path)
                if self.closed:
                    continue
                if rejected is not None and name not in self.young and self._has_grown(name, path, names, rejected):
                    late.append(self._append(names.index(name), path))
        return [*late, *range(len(names), len(self.names))]

    def _has_grown(self, name: str, path: File, names: Sequence[str], rejected: Mapping[str, tuple[str, int]]) -> bool:
        """Whether rows were appended to a file that were not tried before."""
        now = file_fingerprint(path)
        tried = {
            rejected[str(number)][0]
            for number, added in enumerate(self.appended, FIRST_APPENDED)
            if names[added.file] == name and str(number) in rejected
        }
        return now != self.fingerprints[name] and now not in tried

    def _append(self, number: int, path: File) -> int:
        """Number the rows appended to a file since it was last read."""
        name = self.names[number]
        size = size_in(self.fingerprints[name])
        row, byte = 0, 0
        for added in self.appended:
            if added.file == number and added.byte < size:
                row, byte = added.row, added.byte
        row += rows_in(path, self._format, name, (byte, size))
        self.fingerprints[name] = file_fingerprint(path)
        self.appended = [*self.appended, Appended(number, row, size)]
        return FIRST_APPENDED + len(self.appended) - 1

    def fingerprint(self, name: str) -> str | None:
        """Return the current fingerprint of a file: None if it does not exist, "" if it cannot be opened."""
        path = self.paths.get(name)
        try:
            return file_fingerprint(path) if path is not None and path.exists() else None
        except OSError:
            return ""

    def drop_fingerprint(self, number: int) -> None:
        """Mark a fragment as unread; if it consists of appended rows, the file before them stays read."""
        name = self.name_of(number)
        known = self.fingerprints.pop(name, None)
        if known is not None and number >= FIRST_APPENDED:
            before = self.appended[number - FIRST_APPENDED].byte
            self.fingerprints[name] = file_fingerprint(self.paths[name], before)

    def changed(self, fingerprints: Mapping[str, str]) -> dict[str, str]:
        """Return the files that neither have these fingerprints nor only grew, with their current fingerprints."""
        there = {name: self.fingerprint(name) for name in fingerprints}
        return {
            name: now
            for name, now in there.items()
            if now is not None and (not now or self._has_changed(name, self.paths[name], fingerprints[name], now))
        }

    def _check(self, name: str, path: File) -> None:
        """Store the fingerprint of a file at its first reading; raise a StreamError if it has changed since."""
        try:
            now = file_fingerprint(path)
        except OSError as error:
            raise StreamError(
                f"{name}: expected a file that can be read, got: {error.strerror}; change its permissions, or take it "
                "out of the stream"
            ) from error
        known = self.fingerprints.setdefault(name, now)
        if self._has_changed(name, path, known, now):
            raise StreamError(
                f"stream.path: {name} has changed since the run read it ({change_between(known, now, 'bytes')}); "
                "put it back, and add new rows as a new file"
            )

    def _has_changed(self, name: str, path: File, known: str, now: str) -> bool:
        return known != now and not (self._grows(name) and grew(path, known))

    def _grows(self, name: str) -> bool:
        return is_growable(name, self.format_of(name))

    # -- fragments

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
        """Yield the fragments, which are all listed before the first is read; see `Source.fragments`."""
        fragments = [self._fragment(number) for number in self.numbers if number not in skip]
        late = {number: place for place, number in enumerate(floors or ())}
        fragments.sort(key=lambda fragment: (late.get(fragment.number, -1), fragment.number))
        if time is None:
            yield from fragments
            return
        found = []
        for fragment in fragments:
            try:
                found.append((fragment, fragment.times(time, leap)))
            except StreamError as fault:
                if on_bad_file is None:
                    raise
                on_bad_file(fragment, 0, fault)
        if origin is None:
            origin = min((times[0] for _, times in found if times), default=0)
        for fragment, times in found:
            floor = (floors or {}).get(fragment.number, origin)
            fragment.first, fragment.last = (max(edge, floor) for edge in times or (origin, origin))
        yield from sorted((fragment for fragment, _ in found), key=lambda fragment: (fragment.first, fragment.number))

    def _fragment(self, number: int) -> Fragment:
        name = self.name_of(number)
        path = self.paths.get(name)
        if path is None or not path.exists():
            raise StreamError(
                f"stream.path: expected {name}, which the run has not finished with, but it is gone; put it back"
            )

        mine = Appended(number, 0, 0) if number < FIRST_APPENDED else self.appended[number - FIRST_APPENDED]
        later = [added for added in self.appended if added.file == mine.file and added.byte > mine.byte]

        def chunks(columns: Sequence[str]) -> Iterator[pa.Table]:
            self._check(name, path)
            end = min((added.byte for added in later), default=size_in(self.fingerprints[name]))
            in_bytes = (mine.byte, end) if mine.byte or end < path.stat().st_size else None
            in_bytes = in_bytes if self._grows(name) else None

            def read() -> Iterator[pa.Table]:
                found = read_chunks(path, self._own(columns), self._format, name, in_bytes)
                return (self._as_asked(table, columns, name) for table in found)

            if self._reads is None:
                return read()
            return self._reads.tables((name, self.fingerprints[name], tuple(columns), in_bytes), read)

        def fingerprint() -> str:
            return self.fingerprints[name]

        def rows(columns: Sequence[str], offsets: Offsets) -> pa.Table:
            self._check(name, path)
            found = read_rows(path, self._own(columns), self._format, name, offsets)
            return self._as_asked(found, columns, name)

        def check() -> None:
            self._check(name, path)

        def part_rows() -> list[int | None]:
            return parts_of(path, self._format, name)

        def read_part(columns: Sequence[str], index: int) -> Iterator[pa.Table]:
            found = read_chunks(path, self._own(columns), self._format, name, part=index)
            return (self._as_asked(table, columns, name) for table in found)

        if not self._grows(name):
            return Fragment(
                number,
                name,
                chunks,
                rows=rows,
                fingerprint=fingerprint,
                check=check,
                part_rows=part_rows,
                read_part=read_part,
            )
        stop = min((added.row for added in later), default=None)
        start = mine.row
        return Fragment(
            number, name, chunks, of=mine.file, start=start, stop=stop, fingerprint=fingerprint, check=check
        )
