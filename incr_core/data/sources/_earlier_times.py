"""The times of the last rows before a part of a stream, which a part of a few rows is judged together with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from incr_core.data.times import FEW, instants
from incr_core.errors import StreamError

__all__ = ["EarlierTimes"]

Times = np.ndarray[Any, np.dtype[np.int64]]


class EarlierTimes:
    """The times of the last `FEW` rows, or a few more, by column. They are read on demand.

    Times that were found to leap ahead are included. So the times after a true gap are accepted once most of these rows
    come after it.

    >>> earlier = EarlierTimes()
    >>> for seconds in (1, 2):
    ...     earlier = earlier.and_then(lambda columns, at=seconds: iter([pa.table({"at": [at]})]), rows=1)
    >>> earlier.of("at")
    array([1000000, 2000000])
    """

    __slots__ = ("_parts",)

    def __init__(self, parts: tuple[_Part, ...] = ()) -> None:
        self._parts = parts

    def and_then(self, chunks: Callable[[Sequence[str]], Iterator[pa.Table]], rows: int) -> EarlierTimes:
        """With the rows of another part, which `chunks` reads."""
        parts = (*self._parts, _Part(chunks, rows)) if rows else self._parts
        while sum(part.rows for part in parts[1:]) >= FEW:
            parts = parts[1:]
        return EarlierTimes(parts)

    def of(self, column: str) -> Times:
        """The times of a column (n,), in microseconds, in the order of the rows, without missing times."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *(part.times(column) for part in self._parts)])[-FEW:]


class _Part:
    __slots__ = ("_chunks", "_found", "rows")

    def __init__(self, chunks: Callable[[Sequence[str]], Iterator[pa.Table]], rows: int) -> None:
        self._chunks, self.rows, self._found = chunks, rows, dict[str, Times]()

    def times(self, column: str) -> Times:
        if column not in self._found:
            try:
                table = pa.concat_tables(self._chunks([column]))
                read = instants(table[column].slice(max(0, len(table) - FEW)), column)
                self._found[column] = read.values[read.known]
            except StreamError:  # a bad part: reported where it is read
                self._found[column] = np.zeros(0, dtype=np.int64)
        return self._found[column]
