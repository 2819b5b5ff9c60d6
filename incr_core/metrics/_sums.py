"""Statistics whose sums do not depend on order or division, to the last bit, and ratios of such sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    "LEAST",
    "Array",
    "Statistics",
    "add",
    "exact_sums",
    "floats",
    "mean",
    "on_grid",
    "padded_sum",
    "per_class",
    "ratio",
    "unless_broken",
    "weights",
]

Array = npt.NDArray[Any]
Statistics = dict[str, Array]

LEAST = 1e-7  # lower bound of probabilities in log loss: float32 cannot distinguish 1 - 1e-8 from 1


def add(a: Statistics, b: Statistics) -> Statistics:
    """Return the statistics of the union of rows; `{}` represents no rows.

    If a model has grown a class, the shorter array is padded with zeros.

    Example:
        >>> from incr_core.metrics._multiclass import multiclass_metrics
        >>> from incr_core.metrics._multiclass import multiclass_statistics
        >>> one = multiclass_statistics(torch.tensor([[0.8, 0.2]]), torch.tensor([0]))
        >>> two = multiclass_statistics(torch.tensor([[0.1, 0.8, 0.1]]), torch.tensor([2]))
        >>> multiclass_metrics(add(add({}, one), two))["accuracy"]
        0.5
    """
    both = {name: padded_sum(a[name], b[name]) for name in a.keys() & b.keys()}
    return {name: both.get(name, array) for name, array in {**a, **b}.items()}


def padded_sum(a: Array, b: Array) -> Array:
    """Return the sum of two arrays, each padded with zeros to the larger shape.

    Example:
        >>> padded_sum(np.ones(2), np.ones(3))
        array([2., 2., 1.])
    """
    if a.shape == b.shape:
        return a + b
    total = np.zeros(np.maximum(a.shape, b.shape))
    for part in (a, b):
        total[tuple(slice(size) for size in part.shape)] += part
    return total


def on_grid(terms: Array) -> Array:
    """Round terms to multiples of 2**-24, so that totals up to 2**29 add without rounding, in any order."""
    return np.rint(terms * 2.0**24) * 2.0**-24


_UNITS = 2.0 ** np.array([[[-60], [-40], [-20], [0], [20], [40], [60]]])


def exact_sums(terms: Array) -> Array:
    """Return sums of terms (q, n) of any size as (q, 8) parts, which add without rounding, in any order.

    Each term is cut where its bits cross 2**-60, ..., 2**60. A part is a multiple of its unit and below 2**20 units, so
    2**33 rows fit before float64 rounds. (Bits below 2**-60 and above 2**80 are kept, and round as usual.)

    Reference:
        Demmel and Nguyen, Fast reproducible floating-point summation (ARITH 2013), with fixed units.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        terms = terms[:, None]
        from_unit = np.trunc(terms / _UNITS) * _UNITS  # each term without its bits below the unit: (q, 7, n)
        parts = -np.diff(from_unit, axis=1, prepend=terms, append=0.0)
        sums: Array = parts.sum(2)
    return sums


def floats(tensor: Tensor) -> Array:
    """Return a float64 copy on the CPU."""
    return tensor.detach().to("cpu", torch.float64, copy=True).numpy()


def weights(weight: Tensor | None, rows: int) -> Array:
    """Return row weights (rows,) on the grid; ones if None."""
    return np.ones(rows) if weight is None else on_grid(floats(weight))


def ratio(a: float, b: float) -> float:
    """Return a quotient; 0/0 gives NaN.

    Example:
        >>> ratio(1, 4), ratio(0, 0)
        (0.25, nan)
    """
    return a / b if b else math.nan


def mean(values: Array) -> float:
    """Return the mean of values (n,), NaN if empty.

    Example:
        >>> mean(np.array([1.0, 2.0])), mean(np.array([]))
        (1.5, nan)
    """
    return float(values.mean()) if len(values) else math.nan


def unless_broken(metrics: dict[str, float], loss: float) -> dict[str, float]:
    """Return the metrics, all NaN if the loss shows that a prediction was NaN.

    Example:
        >>> unless_broken({"auc": 0.7}, math.nan)
        {'auc': nan}
    """
    return dict.fromkeys(metrics, math.nan) if math.isnan(loss) else metrics


def per_class(right: Array, predicted: Array, true: Array) -> dict[str, Array]:
    """Return precision, recall and F1 of each class (C,), with 0/0 as zero."""

    def ratio(a: Array, b: Array) -> Array:
        return a / np.where(b > 0, b, 1.0)

    return {
        "precision": ratio(right, predicted),
        "recall": ratio(right, true),
        "f1": ratio(2 * right, predicted + true),
    }
