"""Reviews of the history: their schedule, and their rows, drawn uniformly from the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from incr_core.data import OFFSET_BITS, ranges
from incr_core.data import times as clock
from incr_core.registry.ledger import flat

__all__ = ["Review", "draw_rows"]

Ints = npt.NDArray[np.int64]


class Review:
    """A pass over `rows` rows of the history, at an interval of increments or stream time.

    Args:
        every: A number of increments, or a duration such as "7d".
        rows: Number of rows.
        seed: Seed of the draws; each draw depends only on the seed and the number of its increment.

    Example:
        >>> review = Review(2, 100, seed=0)
        >>> [review.due(number, 0) for number in range(4)]
        [False, True, False, True]
    """

    def __init__(self, every: int | str, rows: int, seed: int) -> None:
        self.every = every if isinstance(every, int) else None
        self.duration = None if isinstance(every, int) else clock.duration(every, "review.every")
        self.rows, self.seed = rows, seed
        self._increments = 0  # since the last review
        self._last: int | None = None  # the time of the last review, or of the first increment

    def due(self, number: int, time: int) -> bool:
        """Whether the increment of this number, up to this time in microseconds, ends with a review."""
        self._increments += 1
        if self._last is None:
            self._last = time
        due = self._increments >= self.every if self.every is not None else time - self._last >= (self.duration or 0)
        if due:
            self._increments, self._last = 0, time
        return due

    def draw(self, number: int, learned: Mapping[str, Sequence[Tensor]], ledger: pa.Table, names: list[str]) -> Any:
        """Return the rows to review, by participant; see `draw_rows`."""
        return draw_rows(self.rows, [self.seed, number], learned, ledger, names)

    def state_dict(self) -> dict[str, Any]:
        """Return the time of the last review."""
        return {"increments": self._increments, "last": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the time of the last review."""
        self._increments, self._last = state["increments"], state["last"]


def draw_rows(
    count: int, seed: Sequence[int], learned: Mapping[str, Sequence[Tensor]], ledger: pa.Table, names: Sequence[str]
) -> dict[str, Tensor]:
    """Return ids of `count` rows, or of all if there are fewer, by the participant that learned them.

    The draw does not depend on when rows were committed.

    Args:
        count: Number of rows.
        seed: Seed of the draw.
        learned: Rows by participant that are not in the ledger yet.
        ledger: The ledger.
        names: Fragments by number.

    Example:
        >>> from incr_core.registry.ledger import entry_table
        >>> ledger = entry_table(1, "b", torch.arange(5), ["x"], increment=0)
        >>> drawn = draw_rows(6, [0], {"a": [torch.arange(5, 7)]}, ledger, ["x"])
        >>> sum(map(len, drawn.values())), sorted(drawn)
        (6, ['a', 'b'])
    """
    numbers = {name: number for number, name in enumerate(names)}
    parts = [_ranges_of(ledger, numbers)] if ledger.num_rows else []
    for owner, rows in learned.items():
        pairs = [(number << OFFSET_BITS) + np.array(found) for number, found in ranges(torch.cat(list(rows))).items()]
        edges = np.concatenate(pairs)
        parts.append((np.full(len(edges), owner), edges))
    if not parts:
        return {}
    edges = np.concatenate([edges for _, edges in parts])
    who, codes = np.unique(np.concatenate([owners for owners, _ in parts]), return_inverse=True)
    order = np.lexsort((edges[:, 0], codes))
    edges, codes = edges[order], codes[order]
    ends = np.cumsum(edges[:, 1] - edges[:, 0])
    total = int(ends[-1])
    chosen = np.arange(total)
    if count < total:
        chosen = np.sort(np.random.default_rng(list(seed)).choice(total, count, replace=False, shuffle=False))
    span = np.searchsorted(ends, chosen, side="right")
    ids = edges[span, 1] - (ends[span] - chosen)
    return {str(name): torch.from_numpy(ids[codes[span] == code]) for code, name in enumerate(who)}


def _ranges_of(ledger: pa.Table, numbers: Mapping[str, int]) -> tuple[npt.NDArray[np.str_], Ints]:
    """Return the owner of each range of the ledger, and its ids (n, 2): of its first row, and one past its last."""
    entry, start, stop = flat(ledger)
    base = np.array([numbers[name] << OFFSET_BITS for name in ledger["fragment"].to_pylist()], dtype=np.int64)[entry]
    owners = np.array(ledger["participant"].to_pylist())[entry]
    return owners, np.stack([base + start, base + stop], axis=1)
