"""Partitions: which rows of a stream one owner holds.

`ByColumn` and `ByHash` partition the data: rows are chosen before rates and increments are made, so an owner's features
depend on its own rows only. `Blocks` deals out the finished increments of one common stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from incr_core.batch import Batch
from incr_core.data.encoding import ColumnHash, indexed, text
from incr_core.data.sources import open_source
from incr_core.errors import StreamError

__all__ = ["Blocks", "ByColumn", "ByHash", "Partition", "owners"]


@dataclass(frozen=True)
class ByColumn:
    """The rows whose `column` reads `value`.

    >>> ByColumn("carrier", "AA").mask(pa.table({"carrier": ["AA", "UA"]}))
    array([ True, False])
    """

    column: str
    value: str | None

    def mask(self, table: pa.Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which rows of the table are owned, (B,) bool."""
        values, codes = indexed(table[self.column])
        mine = np.array([text(value) == text(self.value) for value in values], dtype=bool)
        return mine[codes] if len(codes) else np.zeros(0, dtype=bool)


@dataclass(frozen=True)
class ByHash:
    """The rows whose `column` hashes to `index` modulo `count`: the same value always has the same owner.

    >>> table = pa.table({"carrier": ["AA", "UA", "DL"]})
    >>> sum(int(ByHash("carrier", index, 2).mask(table).sum()) for index in range(2))
    3
    """

    column: str
    index: int
    count: int
    _hash: ColumnHash = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Salted, or a model's own hash of this column would see only some of its buckets.
        object.__setattr__(self, "_hash", ColumnHash(f"owner of {self.column}"))

    def mask(self, table: pa.Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which rows of the table are owned, (B,) bool."""
        return np.asarray(self._hash(table[self.column]) % np.uint64(self.count) == self.index)


@dataclass(frozen=True)
class Blocks:
    """Every `count`-th block of `size` consecutive rows of each increment, beginning with block `index`.

    >>> Blocks(1, 2, size=2).deal(Batch(torch.arange(5.0), torch.arange(5.0))).targets
    tensor([2., 3.])
    """

    index: int
    count: int
    size: int

    def deal(self, batch: Batch) -> Batch:
        """The owned rows of a batch."""
        block = torch.arange(len(batch)) // self.size
        return batch.take(torch.nonzero(block % self.count == self.index).flatten())


Partition = ByColumn | ByHash | Blocks


def owners(
    source: str | Path | Callable[[], Any], column: str, *, format: str | None = None, tolerant: bool = False
) -> dict[str | None, int]:
    """The distinct values of a column over a whole source, as text, sorted, null last; and how many rows each has.

    tolerant: skip files that cannot be read.

    >>> owners(lambda: [{"carrier": ["UA", "AA"]}, {"carrier": ["UA"]}], "carrier")
    {'AA': 1, 'UA': 2}
    """
    rows: Counter[str | None] = Counter()
    for fragment in open_source(source, format).fragments():
        try:
            values, codes = indexed(fragment.load([column])[column])
        except StreamError:
            if not tolerant:
                raise
            continue
        for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
            rows[text(values[code])] += int(count)
    return {value: rows[value] for value in sorted(rows, key=lambda value: (value is None, value or ""))}
