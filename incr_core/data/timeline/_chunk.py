"""A chunk: consecutive rows of one fragment, encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.data.encoding import BadRow
from incr_core.data.rates import Questions
from incr_core.data.timeline._keys import Hashes

__all__ = ["Chunk", "Ints", "Mask"]

Ints = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(slots=True)
class Chunk:
    """Rows of one fragment, encoded, or of several chunks, sorted together (`sorted_chunks`).

    Attributes:
        times: The arrival times of the n rows, (n,).
        known: Their label times, (n,).
        row_ids: The ids of the rows, (n,).
        good: The places of the owned rows that can be used.
        batch: The good rows.
        questions: The data of the good rows that rates need.
        bad: The owned rows that cannot be used.
        bad_at: Their places.
        runs: The chunk of each run of rows.
        ends: The end of each run of rows.
        keys: The keys of the good rows, if rows have keys.
        duplicates: The ids of owned rows that were learned before.
        duplicates_at: Their places.
        held: The kind of values of each column (`Alike.after`).
        zoned: Which times have a zone (`Alike.after`).
    """

    times: Ints
    known: Ints
    row_ids: Tensor
    good: Ints
    batch: Batch
    questions: Questions
    bad: list[BadRow]
    bad_at: Ints
    runs: Ints
    ends: Ints
    keys: Hashes | None = None
    duplicates: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    duplicates_at: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    held: Mapping[str, str | None] = field(default_factory=dict)
    zoned: Mapping[str, bool | None] = field(default_factory=dict)

    def keep(self, kept: Ints) -> None:
        """Keep only the good rows at `kept`."""
        self.good, self.batch = self.good[kept], self.batch.take(torch.from_numpy(kept))
        self.questions = self.questions.take(kept)
        self.keys = None if self.keys is None else self.keys[kept]

    def own(self, mine: Mask) -> None:
        """Remove the rows that are not owned; `mine` is (n,)."""
        self.keep(np.flatnonzero(mine[self.good]))
        owned = np.flatnonzero(mine[self.bad_at]).tolist()
        self.bad, self.bad_at = [self.bad[index] for index in owned], self.bad_at[owned]

    def leave_out(self, duplicate: Mask) -> None:
        """Remove duplicates from the good rows; `duplicate` is (good,)."""
        if not duplicate.any():
            return
        self.duplicates_at, kept = self.good[duplicate], np.flatnonzero(~duplicate)
        self.duplicates = self.row_ids[torch.from_numpy(self.duplicates_at)]
        self.keep(kept)

    @property
    def is_in_order(self) -> bool:
        """Whether the rows are in the order of their times."""
        return bool((self.times[1:] >= self.times[:-1]).all())
