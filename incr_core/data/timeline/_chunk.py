"""A part of a group: one fragment or a chunk of it, loaded; and how parts become one, in order of arrival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from incr_core.batch import Batch, cat
from incr_core.data.encoding import BadRow
from incr_core.data.rates import Questions

__all__ = ["Part", "in_order_of_arrival"]

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(slots=True)
class Part:
    """One fragment or a chunk of it, loaded; or several fragments, sorted together.

    times, known, rows (n,): of all rows. good: places of the owned, usable rows; batch, questions: theirs. bad, bad_at:
    the owned rows that cannot be used, and their places. runs, ends: which fragment is where, and where each run of
    rows of one fragment ends.
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
    keys = [rows.numpy(), times]
    if by_fragment:
        keys.append(rank)
        if first_before is not None:
            keys.append(times >= first_before)
    sort = np.lexsort(keys)
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
    )
