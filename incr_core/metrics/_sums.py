"""Statistics that add, whatever the order or split, to the last bit; and the ratios that metrics are of such sums."""

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

LEAST = 1e-7  # log loss takes no probability as less than this: float32 cannot tell 1 - 1e-8 from 1


def add(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of the rows of both; `{}` is those of no rows.

    A model that has grown a class counts more classes than before: the shorter array is padded with zeros.

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
    """The sum of two arrays, each padded with zeros where the other is longer.

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
    """Terms rounded to multiples of 2**-24, so that totals up to 2**29 add without rounding, in any order."""
    return np.rint(terms * 2.0**24) * 2.0**-24


_UNITS = 2.0 ** np.array([[[-60], [-40], [-20], [0], [20], [40], [60]]])


def exact_sums(terms: Array) -> Array:
    """Sums of terms (q, n) of any size as (q, 8) parts, whose parts add without rounding, in any order.

    Each term is cut where its bits cross 2**-60, ..., 2**60. A part is a multiple of its unit and below
    2**20 units, so 2**33 rows fit before float64 would round. (Bits below 2**-60 and above 2**80 are kept,
    and round as usual.) Demmel and Nguyen, Fast reproducible floating-point summation (ARITH 2013), with
    fixed units.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        terms = terms[:, None]
        from_unit = np.trunc(terms / _UNITS) * _UNITS  # each term without its bits below the unit: (q, 7, n)
        parts = -np.diff(from_unit, axis=1, prepend=terms, append=0.0)
        sums: Array = parts.sum(2)
    return sums


def floats(tensor: Tensor) -> Array:
    """A float64 copy on the CPU."""
    return tensor.detach().to("cpu", torch.float64, copy=True).numpy()


def weights(weight: Tensor | None, rows: int) -> Array:
    """Row weights (rows,) on the grid; ones, if None."""
    return np.ones(rows) if weight is None else on_grid(floats(weight))


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
