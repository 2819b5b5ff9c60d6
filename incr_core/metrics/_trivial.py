"""Additive statistics and metrics of trivial predictions, which use no feature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from torch import Tensor

from incr_core.metrics._sums import Array, Statistics, exact_sums, floats, ratio, weights

__all__ = ["TRIVIAL", "trivial_class_statistics", "trivial_metrics", "trivial_value_statistics"]

TRIVIAL = "trivial"
"""The name of these sums among the statistics of an increment."""


def trivial_class_statistics(answers: tuple[int, int], target: Tensor, weight: Tensor | None = None) -> Array:
    """Rows, and rows predicted right, for each of two constant classes: (2, 2).

    answers: the majority and the last class of the rows before these. target: classes (n,), each row `weight` (n,)
    times.
    """
    y, w = floats(target), weights(weight, len(target))
    return np.array([[w.sum(), w @ (y == answer)] for answer in answers])


def trivial_value_statistics(answers: tuple[float, float], target: Tensor, weight: Tensor | None = None) -> Array:
    """Rows, absolute and squared errors of each of two constant values: exact sums, (2, 3, 8).

    answers: the mean and the last target of the rows before these. target: values (n,).
    """
    y, w = floats(target), weights(weight, len(target))
    found = []
    for answer in answers:
        error = answer - y
        found.append(exact_sums(np.stack([np.ones_like(y), abs(error), error * error]) * w))
    return np.stack(found)


def trivial_metrics(statistics: Statistics) -> Mapping[str, dict[str, float]]:
    """Baseline -> its metrics: accuracy of `majority` and `last value`, or MAE and RMSE of `mean` and `last value`.

    Nothing where the statistics have none.

    >>> import torch
    >>> sums = trivial_class_statistics((1, 0), torch.tensor([1, 1, 0, 1]))
    >>> trivial_metrics({TRIVIAL: sums})
    {'majority': {'accuracy': 0.75}, 'last value': {'accuracy': 0.25}}
    """
    sums = statistics.get(TRIVIAL)
    if sums is None:
        return {}
    if sums.ndim == 2:
        scored = ((name, *row) for name, row in zip(("majority", "last value"), sums.tolist(), strict=True))
        return {name: {"accuracy": ratio(right, rows)} for name, rows, right in scored}
    return {name: _errors(one) for name, one in zip(("mean", "last value"), sums, strict=True)}


def _errors(sums: Array) -> dict[str, float]:
    if not np.isfinite(sums).all():
        return {"mae": math.nan, "rmse": math.nan}
    rows, absolute, square = (sum(map(Fraction, row)) for row in sums.tolist())
    if not rows:
        return {"mae": math.nan, "rmse": math.nan}
    return {"mae": float(absolute / rows), "rmse": math.sqrt(square / rows)}
