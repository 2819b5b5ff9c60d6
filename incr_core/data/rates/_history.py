"""The history of a stream: the outcomes known so far, and the rate features computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from incr_core.batch import Batch, Inputs
from incr_core.data.rates._lookup import Lookup
from incr_core.data.rates._outcomes import FIELDS, Outcomes
from incr_core.data.rates._rates import Questions, Rate, series

__all__ = ["History", "widened", "with_features"]

Ints = np.ndarray[Any, np.dtype[np.int64]]


SHARE = 4
"""Sort all outcomes again when more than one in `SHARE` of them was added since the last time."""


class History:
    """The outcomes known so far, for several rates; immutable.

    A history that grows out of another one reuses its sorted outcomes and sorts the new ones apart. So the cost of
    an increment follows the rows of the increment, not of the longest window. The sums of both parts are integers,
    so the features are the same bits.

    Args:
        rates: The rates.
        outcomes: Outcomes of each series of rates; by default none.

    Example:
        >>> from incr_core.data.times import SECOND
        >>> rates = [Rate(["carrier"], 60, prior=0.5, weight=1)]
        >>> known = np.array([5, 8]) * SECOND
        >>> past = Questions.answered(rates, pa.table({"carrier": ["AA", "AA"]}), np.array([1.0, 0.0]), known, known)
        >>> history = History(rates).plus(past)
        >>> now = Questions.of(rates, pa.table({"carrier": ["AA", "UA"]}))
        >>> history.features(now, np.array([8, 8]) * SECOND).round(2)
        array([[0.75, 0.69],
               [0.5 , 0.  ]], dtype=float32)
    """

    def __init__(self, rates: Sequence[Rate], outcomes: Sequence[Outcomes] | None = None) -> None:
        nothing = np.zeros(0, dtype=np.int64)
        self.rates = tuple(rates)
        self._series = series(rates)
        self._outcomes = tuple(outcomes or (Outcomes.of(nothing, nothing, nothing) for _ in self._series))
        # Invariant: `_sorted` and `_recent` together hold each of `_outcomes` once, and besides only outcomes that
        # `since` has removed: those precede the windows of all rows that are still to come.
        self._sorted, self._recent = Lookup(self.rates, self._outcomes), tuple[Outcomes, ...]()

    def plus(self, rows: Questions) -> History:
        """Return a history that includes the outcomes of these rows; each counts from the time it is known."""
        asked = zip(rows.keys, rows.known, rows.outcomes, strict=True)
        new = [Outcomes.of(keys, known, outcomes) for keys, known, outcomes in asked]
        grown = History(self.rates, _joined(self._outcomes, new))
        recent = _joined(self._recent, new) if self._recent else tuple(new)
        if SHARE * sum(map(len, recent)) <= sum(map(len, grown._outcomes)):
            grown._sorted, grown._recent = self._sorted, recent
        return grown

    def since(self, time: int) -> History:
        """Return a history with only the outcomes that rates of rows predicted at `time` or later can use."""
        kept = []
        for members, past in zip(self._series, self._outcomes, strict=True):
            windows = [window for index in members if (window := self.rates[index].window_us) is not None]
            endless = len(windows) < len(members)
            oldest = time - max(windows, default=0)
            kept.append(past.folded(oldest) if endless else past.where(past.known >= oldest))
        later = History(self.rates, kept)
        later._sorted, later._recent = self._sorted, self._recent
        return later

    def before(self, time: int) -> History:
        """Return a history with only the outcomes known before `time`."""
        return History(self.rates, [past.where(past.known < time) for past in self._outcomes])

    def lookup(self) -> Lookup:
        """Return a sorted form of these outcomes, for repeated use."""
        return self._sorted.plus(Lookup(self.rates, self._recent)) if self._recent else self._sorted

    def features(self, rows: Questions, times: Ints) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return rate and log count of each rate, for rows predicted at `times` (B,): (B, 2 * rates) float32."""
        return self.lookup().features(rows, times)

    def table(self) -> pa.Table:
        """Return the history as a table for a version: a row for each known outcome that a window still contains.

        Example:
            >>> History([]).table().column_names
            ['series', 'key', 'known', 'whole', 'part', 'count']
        """
        series = [np.full(len(past.key), index) for index, past in enumerate(self._outcomes)]
        columns = {"series": np.concatenate([np.zeros(0, dtype=np.int64), *series]).astype(np.int16)}
        for name in FIELDS:
            values = [getattr(past, name) for past in self._outcomes]
            columns[name] = np.concatenate([np.zeros(0, dtype=np.int64), *values])
        return pa.table(columns)

    @classmethod
    def from_table(cls, rates: Sequence[Rate], table: pa.Table) -> History:
        """Restore the history from `table`.

        Example:
            >>> len(History.from_table([Rate([], 60)], History([Rate([], 60)]).table()).table())
            0
        """
        which = table["series"].to_numpy()
        columns = [table[name].to_numpy() for name in FIELDS]
        return cls(
            rates, [Outcomes(*(column[which == index] for column in columns)) for index in range(len(series(rates)))]
        )


def _joined(past: Sequence[Outcomes], newer: Sequence[Outcomes]) -> tuple[Outcomes, ...]:
    return tuple(old.plus(new) for old, new in zip(past, newer, strict=True))


def with_features(batch: Batch, features: np.ndarray[Any, np.dtype[np.float32]]) -> Batch:
    """Return the batch with additional numeric columns (B, F) after the existing ones.

    Example:
        >>> with_features(Batch(torch.zeros(2, 1), torch.zeros(2)), np.ones((2, 1), dtype=np.float32)).inputs
        tensor([[0., 1.],
                [0., 1.]])
    """
    inputs = widened(batch.inputs, torch.from_numpy(features))
    return replace(batch, inputs=inputs)


def widened(inputs: Inputs, more: Tensor) -> Inputs:
    """Return inputs with additional numbers (B, F) after the existing ones.

    Example:
        >>> widened(torch.zeros(1, 1), torch.ones(1, 2))
        tensor([[0., 1., 1.]])
    """
    if isinstance(inputs, dict):
        return inputs | {"numeric": torch.cat([inputs["numeric"], more], dim=1)}
    return torch.cat([inputs, more], dim=1)
