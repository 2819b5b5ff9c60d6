"""Partitions: the rows of a stream that belong to one owner.

`ByColumn`, `ByHash`, `ByDraw` and `ByTime` partition the data: rows are selected before rates and increments are
computed, so an owner's features depend only on its own rows. `Blocks` distributes the finished increments of one common
stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.data._prepare import Prepare
from incr_core.data.encoding import ColumnHash, indexed, text
from incr_core.data.sources import open_source
from incr_core.data.timeline._drawn import ByDraw, ByTime, Marks, Numbered
from incr_core.errors import StreamError

__all__ = ["Blocks", "ByColumn", "ByDraw", "ByHash", "ByOwners", "ByRow", "ByTime", "Partition", "owners"]


@dataclass(frozen=True)
class ByColumn:
    """The rows whose `column` has the text `value`.

    Example:
        >>> ByColumn("carrier", "AA").mask(pa.table({"carrier": ["AA", "UA"]}))
        array([ True, False])
    """

    column: str
    value: str | None

    @property
    def columns(self) -> list[str]:
        """The columns needed to determine the owner of a row."""
        return [self.column]

    @property
    def mark(self) -> str | None:
        """The mark of the owner, as text."""
        return text(self.value)

    def mask(self, table: pa.Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Select the owned rows of the table: (B,) bool."""
        nothing = np.zeros(0, dtype=np.int64)
        return self.marked(*self.marks(table, nothing, nothing))

    def marks(self, table: pa.Table, ids: Tensor | np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> Marks:
        """Return the marks of the table's rows, the same for all owners."""
        return indexed(table[self.column])

    def marked(self, values: Sequence[object], codes: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Select the owned rows, given their marks: (B,) bool."""
        mine = np.array([text(value) == text(self.value) for value in values], dtype=bool)
        return mine[codes] if len(codes) else np.zeros(0, dtype=bool)


@dataclass(frozen=True)
class ByHash(Numbered):
    """The rows whose `column` hashes to `index` modulo `count`; equal values have the same owner.

    Example:
        >>> table = pa.table({"carrier": ["AA", "UA", "DL"]})
        >>> sum(int(ByHash("carrier", index, 2).mask(table).sum()) for index in range(2))
        3
    """

    column: str
    index: int
    count: int
    _hash: ColumnHash = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # The salt makes this hash independent of the model's own hash of the column, which would otherwise use few
        # buckets.
        object.__setattr__(self, "_hash", ColumnHash(f"owner of {self.column}"))

    @property
    def columns(self) -> list[str]:
        """The columns needed to determine the owner of a row."""
        return [self.column]

    def mask(self, table: pa.Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Select the owned rows of the table: (B,) bool."""
        nothing = np.zeros(0, dtype=np.int64)
        return self.marked(*self.marks(table, nothing, nothing))

    def marks(self, table: pa.Table, ids: Tensor | np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> Marks:
        """Return the marks of the table's rows, the same for all owners."""
        return range(self.count), self._hash(table[self.column]) % np.uint64(self.count)


@dataclass(frozen=True)
class Blocks:
    """The share of replica `index` of `count` in the increments of one common stream, distributed in blocks of rows.

    As long as there are `size` rows for every replica, each gets a block of `size` consecutive rows; the remaining rows
    are
    cut into `count` blocks of equal length, within one row. The distribution continues where that of the last increment
    ended: the first block goes to the replica after the one that last got a row more than others. So the row counts of
    replicas differ by at most one, in every increment and in total, and replicas take the same number of steps.

    Args:
        index: The replica, from 0.
        count: The number of replicas that share the stream.
        size: The rows of a full block, i.e. a batch, so that replicas that average every step take the steps of one
            process
            with `accumulate = count`.

    Example:
        >>> seven, one = (Batch(torch.arange(rows), torch.arange(rows)) for rows in (7.0, 1.0))
        >>> [Blocks(index, 2, size=2).deal(seven, 0).targets for index in range(2)]
        [tensor([0., 1., 4., 5.]), tensor([2., 3., 6.])]
        >>> [Blocks(index, 2, size=2).deal(one, 7).targets for index in range(2)]
        [tensor([]), tensor([0.])]
    """

    index: int
    count: int
    size: int

    def deal(self, batch: Batch, dealt: int) -> Batch:
        """Return the owned rows of a batch; `dealt` is the number of rows distributed to all replicas before it."""
        # Full blocks come in rounds of one for each replica, so the total number of distributed rows determines the
        # turn.
        turn = (self.index - dealt) % self.count
        in_rounds = len(batch) - len(batch) % (self.count * self.size)
        full = torch.arange(in_rounds).view(-1, self.count, self.size)[:, turn].flatten()
        length, longer = divmod(len(batch) - in_rounds, self.count)  # the first of the last blocks are one row longer
        start = in_rounds + turn * length + min(turn, longer)
        return batch.take(torch.cat([full, torch.arange(start, start + length + (turn < longer))]))


@dataclass(frozen=True)
class ByOwners(Numbered):
    """The rows of block `index`, which is `size` consecutive owners. Each row contains its owner (`Batch.owner`).

    Args:
        of: the partition of any one owner. It defines the numbers of all owners.
        index: the block, from 0.
        size: how many owners a block has; the last one may have fewer.

    Example:
        >>> table, ids = pa.table({"x": [0.0] * 6}), np.arange(6)
        >>> block = ByOwners(ByDraw(0, 4, "iid"), index=1, size=2)
        >>> block.owners(table, ids, ids).tolist(), block.marked(*block.marks(table, ids, ids)).tolist()
        ([2, 2, 1, 2, 2, 2], [True, True, False, True, True, True])
    """

    of: ByHash | ByDraw | ByTime
    index: int
    size: int

    @property
    def columns(self) -> list[str]:
        """The columns that the owner of a row depends on."""
        return self.of.columns

    @property
    def count(self) -> int:
        """The number of blocks."""
        return -(-self.of.count // self.size)

    def owners(self, table: pa.Table, ids: Tensor | np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> Codes:
        """The number of each row's owner, (B,) int64."""
        return np.asarray(self.of.marks(table, ids, times)[1]).astype(np.int64)

    def marks(self, table: pa.Table, ids: Tensor | np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> Marks:
        """The blocks, and for each row which of them it belongs to."""
        return range(self.count), self.owners(table, ids, times) // self.size


Codes = np.ndarray[Any, np.dtype[np.int64]]

ByRow = ByColumn | ByHash | ByDraw | ByTime | ByOwners
"""Partitions by row: the owner follows from the values of a row, its time or its id."""

Partition = ByRow | Blocks


def owners(
    source: str | Path | Callable[[], Any],
    column: str,
    *,
    format: str | None = None,
    tolerant: bool = False,
    prepare: Prepare | None = None,
) -> dict[str | None, int]:
    """Return the distinct values of a column of a whole source, as sorted text with null last, with their row counts.

    Args:
        source: The source.
        column: The column.
        format: The format of the files, if their names do not determine it.
        tolerant: Whether to skip files that cannot be read.
        prepare: Function that all tables pass through.

    Example:
        >>> owners(lambda: [{"carrier": ["UA", "AA"]}, {"carrier": ["UA"]}], "carrier")
        {'AA': 1, 'UA': 2}
    """
    rows: Counter[str | None] = Counter()
    for fragment in open_source(source, format, prepare=prepare).fragments():
        try:
            values, codes = indexed(fragment.load([column])[column])
        except StreamError:
            if not tolerant:
                raise
            continue
        for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
            rows[text(values[code])] += int(count)
    return {value: rows[value] for value in sorted(rows, key=lambda value: (value is None, value or ""))}
