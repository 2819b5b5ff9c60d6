"""Multilabel objective."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from incr_core import metrics
from incr_core.metrics import Statistics
from incr_core.objectives._base import Objective
from incr_core.objectives._losses import Loss

__all__ = ["Multilabel"]


class Multilabel(Objective):
    """Multilabel classification: the mean of L binary cross-entropies, targets (B, L) of 0 and 1.

        l = -1/L sum_k (y_k log p_k + (1 - y_k) log(1 - p_k))        p = sigmoid(output)

    Args:
        labels: L.
        loss: A robust loss, "gce" or "sce" of `LOSSES`, instead of cross-entropy, for each label.

    Example:
        >>> objective = Multilabel(3)
        >>> round(float(objective(torch.zeros(2, 3), torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))), 4)
        0.6931
    """

    draws_nothing: ClassVar[bool] = True

    losses = ("gce", "sce")
    main_metric = "micro_f1"
    higher_is_better = True

    def __init__(self, labels: int, loss: Loss | None = None) -> None:
        super().__init__()
        self.outputs = labels
        self.loss = loss

    def rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over labels, (B,)."""
        ce = F.binary_cross_entropy_with_logits(output, targets, reduction="none")
        return (ce if self.loss is None else self.loss(ce)).mean(1)

    def predict(self, output: Tensor) -> Tensor:
        """Return the probability of each label, (B, L)."""
        return output.float().sigmoid()

    def scores(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return sqrt(p_k (1 - p_k)) e_k for each label k (L, B, L), exact; labels are independent given the output."""
        p = self.predict(output)
        return torch.diag_embed((p * (1 - p)).sqrt()).transpose(0, 1)

    def prediction_losses(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy over labels, with each logarithm at least -100."""
        return F.binary_cross_entropy(prediction, targets, reduction="none").mean(1)

    def prediction_errors(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the subset error: 1 where [p_k >= 1/2] differs from y_k for some label k."""
        return ((prediction >= 0.5) != (targets > 0.5)).any(1).float()

    def measure(self, prediction: Tensor, targets: Tensor, weights: Tensor | None = None) -> Statistics:
        """See `metrics.multilabel_statistics`."""
        return metrics.multilabel_statistics(prediction, targets, weights)

    def metrics(self, statistics: Statistics) -> dict[str, float]:
        """See `metrics.multilabel_metrics`."""
        return metrics.multilabel_metrics(statistics)
