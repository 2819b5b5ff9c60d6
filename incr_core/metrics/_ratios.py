"""What metrics are read off from counts: ratios, of all rows and of each class."""

from __future__ import annotations

import math

import numpy as np

from incr_core.metrics._sums import Array

__all__ = ["mean", "per_class", "ratio", "unless_broken"]


def ratio(a: float, b: float) -> float:
    """A quotient; 0/0 is undefined, and NaN.

    >>> ratio(1, 4), ratio(0, 0)
    (0.25, nan)
    """
    return a / b if b else math.nan


def mean(values: Array) -> float:
    """The mean of values (n,), NaN of none.

    >>> mean(np.array([1.0, 2.0])), mean(np.array([]))
    (1.5, nan)
    """
    return float(values.mean()) if len(values) else math.nan


def unless_broken(metrics: dict[str, float], loss: float) -> dict[str, float]:
    """The metrics, or NaN for each when the loss says that a prediction was NaN.

    >>> unless_broken({"auc": 0.7}, math.nan)
    {'auc': nan}
    """
    return dict.fromkeys(metrics, math.nan) if math.isnan(loss) else metrics


def per_class(right: Array, predicted: Array, true: Array) -> dict[str, Array]:
    """Precision, recall and F1 of each class (C,), 0/0 taken as zero."""

    def ratio(a: Array, b: Array) -> Array:
        return a / np.where(b > 0, b, 1.0)

    return {
        "precision": ratio(right, predicted),
        "recall": ratio(right, true),
        "f1": ratio(2 * right, predicted + true),
    }
