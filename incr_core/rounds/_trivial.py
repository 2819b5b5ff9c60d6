"""Trivial predictors, which use no feature: the majority class or the running mean, and the last value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from incr_core.metrics import TRIVIAL, Statistics, trivial_class_statistics, trivial_value_statistics
from incr_core.objectives import Binary, Multiclass, Objective, Regression

__all__ = ["TrivialPredictors"]


class TrivialPredictors:
    """Predictions of a participant from its labels alone: baselines that a model should exceed.

        majority = argmax_c sum_i w_i [y_i = c]        mean = sum_i w_i y_i / sum_i w_i        last value = y_n

    The sums are over the n labels that became known in earlier increments. So all rows of an increment have the same
    trivial predictions, as they have the same weights of the model. Each participant uses its own labels only, and no
    label is exchanged. A late label is compared with a prediction that uses labels the model did not have when it
    predicted the row.

    objective: the one that the model has. For objectives other than binary, multiclass and regression, and those made
    of them, there are no trivial predictors.

    >>> from incr_core.objectives import Regression
    >>> trivial = TrivialPredictors(Regression())
    >>> trivial.add(torch.tensor([1.0, 3.0]))
    >>> trivial.answers()
    (2.0, 3.0)
    """

    def __init__(self, objective: Objective) -> None:
        each = getattr(objective, "each", objective)  # all experts have the same objective
        self.classes = isinstance(each, Binary | Multiclass)
        self.exist = self.classes or isinstance(each, Regression)
        self.sums = torch.zeros(2, dtype=torch.float64)  # by class; or sums of w and w y
        self.last: float | None = None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of the sums that `measure` returns; None if the objective has no trivial predictors."""
        if not self.exist:
            return None
        return (2, 2) if self.classes else (2, 3, 8)

    def answers(self) -> tuple[float, float] | None:
        """The majority (or mean) and the last value; None before the first label."""
        if self.last is None:
            return None
        common = int(self.sums.argmax()) if self.classes else float(self.sums[1] / self.sums[0])
        return float(common), self.last

    def measure(self, targets: Tensor, weights: Tensor | None) -> Statistics:
        """Return additive statistics of the trivial predictions for targets (n,) that have just become known."""
        answers = self.answers()
        if not self.exist or answers is None or len(targets) == 0:
            return {}
        if self.classes:
            return {TRIVIAL: trivial_class_statistics((int(answers[0]), int(answers[1])), targets, weights)}
        return {TRIVIAL: trivial_value_statistics(answers, targets, weights)}

    def add(self, targets: Tensor, weights: Tensor | None = None) -> None:
        """Add labels (n,) in the order in which they became known."""
        if not self.exist or len(targets) == 0:
            return
        y = targets.detach().cpu().reshape(-1)
        w = torch.ones(len(y), dtype=torch.float64) if weights is None else weights.detach().cpu().double()
        if self.classes:
            added = torch.bincount(y.long(), w, minlength=len(self.sums))
            added[: len(self.sums)] += self.sums
            self.sums, self.last = added, float(y[-1])
        elif w.any():  # a mean of nothing is undefined
            self.sums = self.sums + torch.stack([w.sum(), w @ y.double()])
            self.last = float(y[-1])

    def state_dict(self) -> dict[str, Any]:
        """Sums and last value."""
        return {"sums": self.sums, "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.sums, self.last = state["sums"], state["last"]
