"""A part of a group: one fragment or a chunk of it, loaded; and how parts become one, in order of arrival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from incr_core.batch import Batch, cat
from incr_core.data.encoding import BadRow
from incr_core.data.rates import Questions
from incr_core.data.timeline._keys import Hashes

__all__ = ["Part", "in_order_of_arrival"]

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(slots=True)
class Part:
    """One fragment or a chunk of it, loaded; or several fragments, sorted together.

    times, known, rows (n,): of all rows. good: places of the owned, usable rows; batch, questions: theirs. bad, bad_at:
    the owned rows that cannot be used, and their places. runs, ends: which fragment is where, and where each run of
    rows of one fragment ends. keys: of the good rows, where rows have keys. doubles, doubles_at: the owned rows that
    were learned already, and their places.
    """

    times: Ints
    known: Ints
    rows: Tensor
    good: Ints
    batch: Batch
    questions: Questions
    bad: list[BadRow]
    bad_at: Ints
    runs: Ints
    ends: Ints
    keys: Hashes | None = None
    doubles: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    doubles_at: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def leave_out(self, double: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        """Take the good rows that were learned already out of them; double (good,): which they are."""
        if not double.any():
            return
        self.doubles_at, kept = self.good[double], np.flatnonzero(~double)
        self.doubles = self.rows[torch.from_numpy(self.doubles_at)]
        self.good, self.batch = self.good[kept], self.batch.take(torch.from_numpy(kept))
        self.questions = self.questions.take(kept)
        self.keys = None if self.keys is None else self.keys[kept]

    @property
    def is_in_order(self) -> bool:
        """Whether its rows lie in the order of their times."""
        return bool((self.times[1:] >= self.times[:-1]).all())


def in_order_of_arrival(parts: Sequence[Part], *, by_fragment: bool = False, first_before: int | None = None) -> Part:
    """All rows of some parts as one, by time, and rows of one time by their ids.

    by_fragment: part by part, by time only within; but with `first_before`, all rows before that time come first.
    """
    rank = np.concatenate([np.full(len(part.times), index) for index, part in enumerate(parts)])
    rows = torch.cat([part.rows for part in parts])
    times = np.concatenate([part.times for part in parts])
    order = [rows.numpy(), times]
    if by_fragment:
        order.append(rank)
        if first_before is not None:
            order.append(times >= first_before)
    sort = np.lexsort(order)
    good = np.concatenate([np.isin(np.arange(len(part.times)), part.good) for part in parts])
    # Where the usable rows, once sorted, lie among the usable rows as loaded.
    picks = (np.cumsum(good) - 1)[sort[good[sort]]]
    bad = [row for part in parts for row in part.bad]
    starts = np.cumsum([0, *(len(part.times) for part in parts)])[:-1]
    loaded_at = np.concatenate([part.bad_at + start for part, start in zip(parts, starts, strict=True)])
    bad_at = np.argsort(sort)[loaded_at]
    by_place = np.argsort(bad_at)
    rank = rank[sort]
    ends = np.flatnonzero(np.append(rank[1:] != rank[:-1], True)) + 1 if len(rank) else rank
    return Part(
        times[sort],
        np.concatenate([part.known for part in parts])[sort],
        rows[torch.from_numpy(sort)],
        np.flatnonzero(good[sort]),
        cat([part.batch for part in parts]).take(torch.from_numpy(picks)),
        Questions.joined([part.questions for part in parts]).take(picks),
        [bad[index] for index in by_place],
        bad_at[by_place],
        rank[ends - 1],
        ends,
        np.concatenate(keys)[picks] if (keys := [part.keys for part in parts if part.keys is not None]) else None,
    )
