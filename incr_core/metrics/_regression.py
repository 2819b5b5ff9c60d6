"""Regression metrics."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from torch import Tensor

from incr_core.metrics._sums import Statistics, exact_sums, floats, weights

__all__ = ["regression_metrics", "regression_statistics"]


def regression_statistics(value: Tensor, target: Tensor, weight: Tensor | None = None) -> Statistics:
    """Return exact sums of the errors of predicted values (n,) against targets (n,), with weights (n,)."""
    y, w = floats(target), weights(weight, len(target))
    error = floats(value) - y
    ones = np.ones_like(y)
    return {"sums": exact_sums(np.stack([ones, error, abs(error), error * error, y, y * y]) * w)}


def regression_metrics(statistics: Statistics) -> dict[str, float]:
    """Return MAE, RMSE, R2 and bias (the mean of value - target).

    R2 = 1 - sum e^2 / (sum y^2 - (sum y)^2 / n), where the last difference is computed with exact rationals. Only the
    squares are rounded, each to a relative 1e-16, which gives 1e-4 for targets near a million that vary by one.

    Example:
        >>> import torch
        >>> rows = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0])
        >>> regression_metrics(regression_statistics(*rows))
        {'mae': 0.3333..., 'rmse': 0.5773..., 'r2': 0.5, 'bias': 0.3333...}
    """
    names = ("mae", "rmse", "r2", "bias")
    sums = statistics.get("sums", np.zeros((6, 1)))
    if not np.isfinite(sums).all():
        return dict.fromkeys(names, math.nan)
    rows, error, absolute, square, y, yy = (sum(map(Fraction, row)) for row in sums.tolist())
    if rows == 0:
        return dict.fromkeys(names, math.nan)
    spread = yy - y * y / rows
    r2 = 1 - float(square / spread) if spread > 0 else math.nan
    values = (float(absolute / rows), math.sqrt(square / rows), r2, float(error / rows))
    return dict(zip(names, values, strict=True))
