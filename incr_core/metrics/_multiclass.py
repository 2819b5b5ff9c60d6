"""Metrics of multiclass classification, for a number of classes that may grow."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from incr_core.metrics._curves import average_precision
from incr_core.metrics._histograms import calibration, calibration_error, count_scores
from incr_core.metrics._sums import (
    LEAST,
    Statistics,
    floats,
    mean,
    on_grid,
    per_class,
    ratio,
    unless_broken,
    weights,
)
from incr_core.metrics._temporal import kappa_temporal, temporal

__all__ = ["MOST_CLASSES_APART", "multiclass_metrics", "multiclass_statistics"]

MOST_CLASSES_APART = 32
"""Up to this many outputs the confusion matrix and the scores of each class are counted too: at most 140 kB."""


def multiclass_statistics(
    probability: Tensor, target: Tensor, weight: Tensor | None = None, previous: Tensor | None = None
) -> Statistics:
    """Return additive statistics of predicted class probabilities.

    The statistics count, per class, correct rows, predictions and targets. Most metrics need no more of the
    confusion matrix, and these are 3C numbers. Up to `MOST_CLASSES_APART` outputs the statistics also contain the
    confusion matrix, true by predicted (C, C), and a histogram of each class's probability (C, 2, 256), for rows of
    other classes and rows of this class. A target without an output of the model has probability zero.

    Args:
        probability: Class probabilities.
        target: Target classes.
        weight: Row weights. None counts each row once.
        previous: As in `binary_statistics`.

    Shapes:
        probability: (n, C). target, weight, previous: (n,).
    """
    p, y, w = floats(probability), target.detach().cpu().numpy(), weights(weight, len(target))
    outputs = p.shape[1]
    classes = max(outputs, int(y.max(initial=-1)) + 1)
    rows = np.arange(len(y))
    of_target = np.where(y < outputs, p[rows, np.minimum(y, outputs - 1)], 0.0)
    loss = -np.log(of_target.clip(LEAST, 1.0)) + 0.0 * p.sum(1)  # propagates a NaN of any class
    p = np.nan_to_num(p, copy=False)
    top = p.argmax(1)
    right = top == y
    statistics = {
        "sums": np.array([on_grid(loss * w).sum()]),
        "classes": np.stack([np.bincount(c, v, classes) for c, v in ((y, w * right), (top, w), (y, w))]),
        "calibration": calibration(p[rows, top].clip(0.0, 1.0), right, w),
    }
    if outputs <= MOST_CLASSES_APART:
        pairs = np.bincount(y * classes + top, w, classes * classes)
        statistics["matrix"] = pairs.reshape(classes, classes)
        statistics["class_scores"] = count_scores(p, y, w)
    if previous is not None:
        statistics["temporal"] = temporal(right, y, floats(previous), w)
    return statistics


def multiclass_metrics(statistics: Statistics) -> dict[str, float]:
    """Return accuracy, macro precision, recall and F1, log loss, Cohen's kappa, calibration error of the top class.

    Macro average precision, of each class against all others, is included if the scores of each class are counted.

    A class that is neither predicted nor true is excluded from the macro means. A class that is only predicted, or only
    true, counts as zero if its precision, recall or F1 is 0/0, as in torchmetrics.

    Example:
        >>> rows = torch.eye(3)[[0, 1, 1, 2]], torch.tensor([0, 1, 2, 2])
        >>> multiclass_metrics(multiclass_statistics(*rows))["recall"]
        0.8333...
    """
    if not statistics:
        statistics = multiclass_statistics(torch.empty(0, 1), torch.empty(0, dtype=torch.int64))
    right, predicted, true = statistics["classes"]
    loss, rows = float(statistics["sums"][0]), float(true.sum())
    agreement = ratio(float(right.sum()), rows)
    chance = ratio(float(predicted @ true), rows * rows)
    seen = predicted + true > 0
    metrics = {
        "accuracy": agreement,
        **{name: mean(values[seen]) for name, values in per_class(right, predicted, true).items()},
        "log_loss": ratio(loss, rows),
        "kappa": ratio(agreement - chance, 1 - chance),
        "calibration_error": calibration_error(statistics["calibration"]),
    }
    if "class_scores" in statistics:
        scores = statistics["class_scores"]
        of_some = scores[scores[:, 1].any(axis=1)]  # the classes that some row was of
        metrics["average_precision"] = mean(average_precision(of_some))
    return unless_broken(metrics | kappa_temporal(statistics), loss)
