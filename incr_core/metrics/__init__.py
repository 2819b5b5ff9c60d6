"""Prequential metrics from additive statistics.

Every `*_statistics` function converts predictions and targets of some rows to a few float64 arrays. `add` merges two
such dictionaries by addition, and the matching `*_metrics` function computes the metrics. No rows move between
participants. The result does not depend on the order or the division of rows, to the last bit: floating-point addition
is exact as long as the terms are multiples of one small unit and the total stays below 2**53 units. Bounded terms are
rounded to a grid first (`sums.on_grid`), and unbounded ones are cut into parts on a grid (`sums.exact_sums`). The only
exception is a score histogram with fractional row weights, which may differ in the last bits.

An undefined metric (no rows, one class only) is NaN, without a warning. A NaN prediction makes every metric NaN: the
model is broken, and the mean of the other rows would hide it.
"""

from __future__ import annotations

from incr_core.errors import ArgumentError
from incr_core.metrics._binary import binary_metrics, binary_statistics
from incr_core.metrics._coarse import FINE, coarse
from incr_core.metrics._continual import forgetting
from incr_core.metrics._curves import average_precision, precision_recall_curve, roc_curve
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
from incr_core.metrics._trivial import TRIVIAL, trivial_class_statistics, trivial_metrics, trivial_value_statistics

__all__ = [
    "FINE",
    "TRIVIAL",
    "Packed",
    "Statistics",
    "Told",
    "add",
    "added",
    "average_precision",
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
    "precision_recall_curve",
    "ranking_metrics",
    "ranking_statistics",
    "regression_metrics",
    "regression_statistics",
    "roc_curve",
    "total",
    "trivial_class_statistics",
    "trivial_metrics",
    "trivial_value_statistics",
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
    """Return the main metric of an objective, and whether higher is better.

    Raises:
        ArgumentError: The objective is unknown.

    Example:
        >>> main_metric("binary"), main_metric("regression")
        (('auc', True), ('rmse', False))
    """
    if objective not in _MAIN:
        raise ArgumentError(f"objective: expected one of {', '.join(_MAIN)}, got {objective!r}")
    return _MAIN[objective]
