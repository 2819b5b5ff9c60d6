"""A numbered fragment of a source: one file or table, or the rows appended to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from incr_core.data.sources._formats import Offsets
from incr_core.data.times import Instants, instants, leaps

__all__ = ["Fragment"]


@dataclass(slots=True)
class Fragment:
    """One file or table, or rows appended to a file that was read before.

    Attributes:
        number: Its number in the source.
        name: Name of its file or table.
        chunks: Reads some columns, as consecutive tables; at least one.
        first: Its first time in microseconds, if a time column was requested.
        last: Its last time.
        rows: Reads some columns of the rows at some offsets, if that does not require reading all rows.
        of: For appended rows, the number of the file, which is used in their ids.
        start: For appended rows, the offset of the first in the file.
        stop: For appended rows, the offset after the last; None if no rows follow.
        fingerprint: Returns the fingerprint of its file as read; None if the fragment may differ when it is read again.
        check: Checks that its file is unchanged, or stores its fingerprint; `chunks` does so too.
        parts: Returns the rows of each part that can be read separately, None if unknown before reading. None if the
            fragment is one part.
        part: Reads one part, as `chunks` does.
    """

    number: int
    name: str
    chunks: Callable[[Sequence[str]], Iterator[pa.Table]]
    first: int = 0
    last: int = 0
    rows: Callable[[Sequence[str], Offsets], pa.Table] | None = None
    of: int | None = None
    start: int = 0
    stop: int | None = None
    fingerprint: Callable[[], str] | None = None
    check: Callable[[], None] = lambda: None
    parts: Callable[[], list[int | None]] | None = None
    part: Callable[[Sequence[str], int], Iterator[pa.Table]] | None = None

    @property
    def file(self) -> int:
        """The number used in the ids of its rows."""
        return self.number if self.of is None else self.of

    def take(self, columns: Sequence[str], offsets: Offsets) -> pa.Table:
        """Return the rows at `offsets` (n,) of its file, in order."""
        offsets = offsets - self.start
        return self.load(columns).take(pa.array(offsets)) if self.rows is None else self.rows(columns, offsets)

    def times(self, time: str, leap: int | None = None) -> tuple[int, int] | None:
        """Return its first and last time in the column `time`, without times that leap ahead, or None without times."""
        read: Instants = instants(self.load([time])[time], f"stream.predict_at.{time} in {self.name}")
        times = read.values[read.known & ~leaps(read, leap)]
        return (int(times.min()), int(times.max())) if len(times) else None

    def load(self, columns: Sequence[str]) -> pa.Table:
        """Return all its rows, with some columns."""
        return pa.concat_tables(self.chunks(columns))
