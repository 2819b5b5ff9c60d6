"""Comparison of two versions on the newest rows, which are held back from learning until the next increment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from incr_core import metrics
from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.metrics import Packed
from incr_core.numerics import like, local
from incr_core.rounds._losses import losses_of

__all__ = ["Comparison", "compared"]


def _no_rows() -> Tensor:
    return torch.zeros(5, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Additive sums over the predictions of champion and challenger on the same rows.

    Attributes:
        sums: (5,) float64: rows, champion's losses, challenger's losses, their differences, squared differences.
        champion, challenger: Statistics of their predictions, for the objective's metrics.
    """

    sums: Tensor = field(default_factory=_no_rows)
    champion: Packed = field(default_factory=dict)
    challenger: Packed = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The number of rows compared."""
        return int(self.sums[0])

    @classmethod
    def total(cls, several: Sequence[Comparison]) -> Self:
        """Sum several comparisons, in their order.

        Example:
            >>> one = Comparison(torch.ones(5, dtype=torch.float64))
            >>> Comparison.total([one, one]).rows
            2
        """
        return cls(
            sum((one.sums.double() for one in several), _no_rows()),
            metrics.total(one.champion for one in several),
            metrics.total(one.challenger for one in several),
        )


def compared(learner: Learner, champion: Mapping[str, Tensor], rows: Batch | None) -> Comparison:
    """Compare a learner's weights with the champion's.

    Args:
        learner: The learner with the challenger's weights. It has the same weights afterwards.
        champion: The champion's weights, by the same names.
        rows: The rows held back, or None.
    """
    if rows is None or not learner.objective.ready:
        return Comparison()
    after, challenger = _measured(learner, rows)
    with _lent(learner, champion):
        before, measured = _measured(learner, rows)
    known = before.isfinite() & after.isfinite()
    before, after = before[known], after[known]
    change = after - before
    sums = torch.stack([known.sum().double(), before.sum(), after.sum(), change.sum(), (change**2).sum()])
    return Comparison(sums, measured, challenger)


def _measured(learner: Learner, rows: Batch) -> tuple[Tensor, Packed]:
    """The loss of each row (B,), and statistics of the predictions."""
    predictions = learner.predict(rows.inputs)
    measured = learner.objective.measure(predictions, rows.targets, rows.weights)
    return losses_of(learner, predictions, rows), metrics.coarse(measured)


@contextmanager
def _lent(learner: Learner, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give the learner these weights inside the context. Strategies are not notified."""
    mine = {name: local(value) for name, value in learner.weights().items()}
    kept = {name: value.clone() for name, value in mine.items()}
    with torch.no_grad():
        for name, value in learner.weights().items():
            mine[name].copy_(like(weights[name], value))
        try:
            yield
        finally:
            for name, value in kept.items():
                mine[name].copy_(value)
