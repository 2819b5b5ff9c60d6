"""A fragment: one file or table of a source, by its number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from incr_core.data.sources._formats import Offsets
from incr_core.data.times import Instants, instants

__all__ = ["Fragment"]


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

    def span(self, time: str) -> tuple[int, int] | None:
        """Its first and last time, by the column `time`; None where no row has one."""
        read: Instants = instants(self.load([time])[time], f"stream.predict_at.{time} in {self.name}")
        times = read.values[read.known]
        return (int(times.min()), int(times.max())) if len(times) else None

    def load(self, columns: Sequence[str]) -> pa.Table:
        """All its rows, of some columns."""
        return pa.concat_tables(self.chunks(columns))
