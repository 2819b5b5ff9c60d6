"""Metrics of multilabel classification."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from incr_core.metrics._sums import LEAST, Statistics, floats, mean, on_grid, per_class, ratio, unless_broken, weights

__all__ = ["multilabel_metrics", "multilabel_statistics"]


def multilabel_statistics(probability: Tensor, target: Tensor, weight: Tensor | None = None) -> Statistics:
    """Return additive statistics of label probabilities (n, L) and targets (n, L) of 0 and 1, with weights (n,)."""
    p, y, w = floats(probability).clip(0.0, 1.0), floats(target), weights(weight, len(target))
    loss = -np.log(np.where(y > 0.5, p, 1.0 - p).clip(LEAST, 1.0))
    predicted = p > 0.5
    return {
        "sums": np.array([on_grid(loss.sum(1) * w).sum(), w.sum()]),
        "labels": np.stack([w @ (predicted * y), w @ predicted, w @ y, w @ (predicted == y)]),
    }


def multilabel_metrics(statistics: Statistics) -> dict[str, float]:
    """Return accuracy and log loss over all labels, and F1 over all decisions (micro) and over labels (macro).

    A label that is neither predicted nor true counts as zero in the macro mean, as in torchmetrics.

    Example:
        >>> rows = torch.tensor([[0.9, 0.8], [0.2, 0.4]]), torch.tensor([[1, 0], [0, 1]])
        >>> metrics = multilabel_metrics(multilabel_statistics(*rows))
        >>> metrics["micro_f1"], metrics["macro_f1"]
        (0.5, 0.5)
    """
    if not statistics:
        statistics = multilabel_statistics(torch.empty(0, 1), torch.empty(0, 1))
    right, predicted, true, agreed = statistics["labels"]
    loss, rows = statistics["sums"].tolist()
    decisions = rows * len(true)
    macro = mean(per_class(right, predicted, true)["f1"]) if rows else math.nan
    metrics = {
        "accuracy": ratio(float(agreed.sum()), decisions),
        "micro_f1": ratio(2 * float(right.sum()), float(predicted.sum() + true.sum())),
        "macro_f1": macro,
        "log_loss": ratio(loss, decisions),
    }
    return unless_broken(metrics, loss)
