"""Metrics of binary classification."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from incr_core.metrics._curves import average_precision
from incr_core.metrics._histograms import area, calibration, calibration_error, score_histogram
from incr_core.metrics._sums import LEAST, Statistics, floats, on_grid, ratio, unless_broken, weights
from incr_core.metrics._temporal import kappa_temporal, temporal

__all__ = ["binary_metrics", "binary_statistics"]


def binary_statistics(
    probability: Tensor, target: Tensor, weight: Tensor | None = None, previous: Tensor | None = None
) -> Statistics:
    """Return additive statistics of predicted probabilities.

    Args:
        probability: Probabilities of class 1.
        target: Targets, 0 or 1.
        weight: Row weights. None counts each row once.
        previous: The label that the last-class baseline predicts for each row (see `last_labels`). It adds kappa_t to
            the metrics.

    Shapes:
        All arguments: (n,).
    """
    p, y, w = floats(probability).clip(0.0, 1.0), floats(target), weights(weight, len(target))
    loss = -np.log(np.where(y > 0.5, p, 1.0 - p).clip(LEAST, 1.0))
    sums = on_grid(np.stack([loss, (p - y) ** 2]) * w).sum(1)
    p = np.nan_to_num(p, copy=False, nan=0.5)  # the sums keep the NaN, which reaches every metric from there
    predicted = p > 0.5
    statistics = {
        "sums": sums,
        "confusion": np.bincount((2 * y + predicted).astype(np.int64), w, 4).reshape(2, 2),
        "calibration": calibration(p, y, w),
        "scores": score_histogram(p, y, w),
    }
    if previous is not None:
        statistics["temporal"] = temporal(predicted == y, y, floats(previous), w)
    return statistics


def binary_metrics(statistics: Statistics) -> dict[str, float]:
    """Return AUC, average precision, log loss, accuracy, macro recall, precision, recall, F1, Brier and others.

    The others are calibration error, Cohen's kappa and the base rate.

    A row is predicted positive above 0.5. Macro recall is the mean of the recalls of both classes (balanced accuracy).
    The calibration error is ECE over ten equal bins. kappa_t is defined under `last_labels`, and present if the
    statistics contain it.

    Example:
        >>> rows = torch.tensor([0.9, 0.2, 0.6, 0.3]), torch.tensor([1.0, 0.0, 0.0, 1.0])
        >>> metrics = binary_metrics(binary_statistics(*rows))
        >>> metrics["auc"], metrics["accuracy"], metrics["brier"]
        (0.75, 0.5, 0.225000...)
        >>> binary_metrics({})["auc"]
        nan

    Reference:
        Naeini et al. 2015 (ECE).
    """
    if not statistics:
        statistics = binary_statistics(torch.empty(0), torch.empty(0))
    (tn, fp), (fn, tp) = statistics["confusion"].tolist()
    loss, squares = statistics["sums"].tolist()
    rows = tn + fp + fn + tp
    agreement = ratio(tp + tn, rows)
    chance = ratio((tp + fp) * (tp + fn) + (tn + fn) * (tn + fp), rows * rows)
    metrics = {
        "auc": area(statistics["scores"]),
        "average_precision": float(average_precision(statistics["scores"][0])),
        "log_loss": ratio(loss, rows),
        "accuracy": agreement,
        "macro_recall": (ratio(tp, tp + fn) + ratio(tn, tn + fp)) / 2,
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "brier": ratio(squares, rows),
        "calibration_error": calibration_error(statistics["calibration"]),
        "kappa": ratio(agreement - chance, 1 - chance),
        "base_rate": ratio(tp + fn, rows),
    }
    return unless_broken(metrics | kappa_temporal(statistics), loss)
