"""Prequential metrics from sums: whoever holds the rows counts them, and counts add.

Every `*_statistics` function turns predictions and targets of some rows into a few float64 arrays; `add`
merges two such dictionaries by adding, and the matching `*_metrics` function reads the numbers off. No rows
move between participants. The order and the split do not matter either, to the last bit: floating-point addition
is exact as long as the terms are multiples of one small unit and the total stays below 2**53 of them, so
bounded terms are rounded to a grid first (`sums.on_grid`) and unbounded ones are cut into parts that lie on one
(`sums.exact_sums`). Fractional row weights can cost the last bits of a score histogram, and nothing else.

What is undefined (no rows, one class only) is NaN, without a warning. A NaN prediction makes every metric
NaN: the model is broken, and the mean of the other rows would hide it.
"""

from __future__ import annotations

from incr_core.errors import ArgumentError
from incr_core.metrics._binary import binary_metrics, binary_statistics
from incr_core.metrics._coarse import coarse
from incr_core.metrics._continual import forgetting
from incr_core.metrics._multiclass import multiclass_metrics, multiclass_statistics
from incr_core.metrics._multilabel import multilabel_metrics, multilabel_statistics
from incr_core.metrics._packed import Packed, Told, added, packed, packed_array, total, unpacked
from incr_core.metrics._ranking import (
    catalogue_metrics,
    catalogue_statistics,
    ranking_metrics,
    ranking_statistics,
)
from incr_core.metrics._regression import regression_metrics, regression_statistics
from incr_core.metrics._sums import Statistics, add
from incr_core.metrics._temporal import last_labels

__all__ = [
    "Packed",
    "Statistics",
    "Told",
    "add",
    "added",
    "binary_metrics",
    "binary_statistics",
    "catalogue_metrics",
    "catalogue_statistics",
    "coarse",
    "forgetting",
    "last_labels",
    "main_metric",
    "multiclass_metrics",
    "multiclass_statistics",
    "multilabel_metrics",
    "multilabel_statistics",
    "packed",
    "packed_array",
    "ranking_metrics",
    "ranking_statistics",
    "regression_metrics",
    "regression_statistics",
    "total",
    "unpacked",
]

_MAIN = {
    "binary": ("auc", True),
    "multiclass": ("accuracy", True),
    "multilabel": ("micro_f1", True),
    "regression": ("rmse", False),
    "ranking": ("ndcg@10", True),
}


def main_metric(objective: str) -> tuple[str, bool]:
    """The metric an objective is judged by, and whether higher is better.

    >>> main_metric("binary"), main_metric("regression")
    (('auc', True), ('rmse', False))
    """
    if objective not in _MAIN:
        raise ArgumentError(f"objective: expected one of {', '.join(_MAIN)}, got {objective!r}")
    return _MAIN[objective]
