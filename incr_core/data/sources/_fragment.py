"""A numbered fragment of a source: one file or table, or the rows appended to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from incr_core.data.sources._earlier_times import EarlierTimes
from incr_core.data.sources._formats import Offsets
from incr_core.data.times import Instants, instants, leaps

__all__ = ["Fragment"]


@dataclass(slots=True)
class Fragment:
    """One file or table, or rows appended to a file that was read before.

    Attributes:
        number, name: its number in the source, and the name of its file or table.
        chunks: reads some columns, a table of consecutive rows at a time; at least one table.
        first, last: its times in microseconds, where a time column was asked for.
        rows: reads some columns of the rows at some offsets, where that does not take reading all of them.
        of: of appended rows, the number of the file, which their ids bear.
        start, stop: of appended rows, the offset in the file of the first of them, and the offset after the last; None
            where nothing follows.
        fingerprint: of its file as it was read; None where the fragment may be another one when it is read again.
        check: makes sure that its file is as it was read, or takes note of it; `chunks` does so too.
        part_rows: Returns the number of rows of each part that can be read by itself; None for a part that must be read
            to count them. None if the fragment is one part.
        read_part: Reads one part, as `chunks` does; None if the fragment is one part.
        earlier: the times of the rows before it, where fragments come in one order for all who read them.
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
    part_rows: Callable[[], list[int | None]] | None = None
    read_part: Callable[[Sequence[str], int], Iterator[pa.Table]] | None = None
    earlier: EarlierTimes | None = None

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
        times = read.values[read.known & ~leaps(read, leap, None if self.earlier is None else self.earlier.of(time))]
        return (int(times.min()), int(times.max())) if len(times) else None

    def load(self, columns: Sequence[str]) -> pa.Table:
        """Return all its rows, with some columns."""
        return pa.concat_tables(self.chunks(columns))
