"""A chunk that is encoded once for all owners of its rows in one process; each owner selects its own rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from incr_core.data.encoding import text
from incr_core.data.timeline._chunk import Chunk, Ints

__all__ = ["DealtChunk"]


@dataclass(frozen=True, slots=True)
class DealtChunk:
    """A chunk of all rows, none of them bad, and the places of each owner's rows.

    Attributes:
        chunk: The chunk; all owners share its arrays of all rows and must not modify them.
        order: The places of the rows, sorted by owner.
        starts: The start of each owner's places in `order`.
        owners: Mark of an owner (`ByColumn.mark`) -> its numbers in `starts`.

    Example:
        >>> from incr_core.batch import Batch
        >>> from incr_core.data.rates import Questions
        >>> import pyarrow as pa
        >>> import torch
        >>> rows, times, nothing = torch.arange(3), np.zeros(3, np.int64), np.zeros(0, np.int64)
        >>> batch = Batch(torch.arange(3.0), torch.zeros(3), row_ids=rows)
        >>> questions = Questions.of((), pa.table({"x": [1, 2, 3]}))
        >>> chunk = Chunk(times, times, rows, np.arange(3), batch, questions, [], nothing, nothing, nothing)
        >>> dealt = DealtChunk.of(chunk, ["AA", "UA"], np.array([1, 0, 1]))
        >>> dealt.owned_by("UA").batch.inputs, len(dealt.owned_by("DL").batch)
        (tensor([0., 2.]), 0)
    """

    chunk: Chunk
    order: Ints
    starts: Ints
    owners: dict[str | None, list[int]]

    @classmethod
    def of(cls, chunk: Chunk, values: Sequence[object], codes: np.ndarray[Any, Any]) -> DealtChunk:
        """Create a chunk from the owners' values and, for each row, the number of its owner's value
        (`Partition.marks`).
        """
        owners: dict[str | None, list[int]] = {}
        for code, value in enumerate(values):
            owners.setdefault(text(value), []).append(code)
        order = np.argsort(codes, kind="stable")
        return cls(chunk, order, np.searchsorted(codes[order], np.arange(len(values) + 1)), owners)

    def owned_by(self, mark: str | None) -> Chunk:
        """Return the chunk with the rows of one owner."""
        codes = self.owners.get(mark, [])
        found = [self.order[self.starts[code] : self.starts[code + 1]] for code in codes]
        places = found[0] if len(found) == 1 else np.sort(np.concatenate([*found, np.zeros(0, dtype=np.int64)]))
        chunk = replace(self.chunk)
        chunk.keep(places)
        return chunk

    @property
    def nbytes(self) -> int:
        """The approximate memory use in bytes."""
        chunk = self.chunk
        return chunk.batch.nbytes + chunk.times.nbytes + chunk.known.nbytes + self.order.nbytes
