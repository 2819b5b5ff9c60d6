"""Small square plots: reliability, ROC curves, precision over recall."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from incr_core.metrics import precision_recall_curve, roc_curve
from incr_core.report._course import Floats
from incr_core.report._drawing import key, line_style, new_square, svg
from incr_core.report._style import OURS, QUIET, TRIVIAL

__all__ = ["precision_recall_plot", "reliability_plot", "roc_plot"]

Lines = Sequence[tuple[str, Floats]]
"""Name of a class, and its histogram of scores (2, BINS)."""


def reliability_plot(calibration: Floats) -> str:
    """Reliability diagram: the frequency of a class over its predicted probability, in ten bins, and bars of the bins'
    shares of rows.

    calibration: rows, sums of probabilities and of hits, (3, 10), as in `metrics.calibration`.
    """
    figure, axes = new_square("predicted probability", "observed share")
    rows, confidence, hits = calibration
    some = rows > 0
    axes.bar((np.arange(len(rows)) + 0.5) / len(rows), rows / max(rows.sum(), 1), width=0.08, color="#e1e8ee", zorder=1)
    axes.plot([0, 1], [0, 1], color=TRIVIAL, linewidth=1.0, linestyle=(0, (5, 2)), zorder=2)
    axes.plot(
        confidence[some] / rows[some], hits[some] / rows[some], color=OURS, linewidth=2.0, marker="o", markersize=4.5
    )
    return svg(figure, "Reliability diagram") + key([("observed", OURS), ("perfect", TRIVIAL), ("rows", "#e1e8ee")])


def roc_plot(lines: Lines) -> str:
    """ROC curves: true over false positive rate, a line for each class."""
    figure, axes = new_square("false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color=TRIVIAL, linewidth=1.0, linestyle=(0, (5, 2)), zorder=2)
    for i, (name, scores) in enumerate(lines):
        axes.plot(*_thinned(*roc_curve(scores)), **line_style(i, name) | {"linewidth": 2.0})
    return svg(figure, "ROC curve") + _key(lines)


def precision_recall_plot(lines: Lines) -> str:
    """Precision over recall, a line for each class. Grey: the share of the class, if there is only one."""
    figure, axes = new_square("recall", "precision")
    if len(lines) == 1:
        scores = lines[0][1]
        axes.axhline(scores[1].sum() / scores.sum(), color=QUIET, linewidth=1.0, linestyle=(0, (5, 2)))
    for i, (name, scores) in enumerate(lines):
        axes.plot(*_thinned(*precision_recall_curve(scores)), **line_style(i, name) | {"linewidth": 2.0})
    return svg(figure, "Precision and recall") + _key(lines)


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The points that a small plot can show: the first and the last of those at the same place."""
    place = np.rint(np.stack([x, y]) * 400)
    moved = np.r_[True, np.diff(place, axis=1).any(axis=0)]
    moved[-1:] = True
    return x[moved], y[moved]


def _key(lines: Lines) -> str:
    return key([(name, line_style(i, name)["color"]) for i, (name, _) in enumerate(lines)]) if len(lines) > 1 else ""
