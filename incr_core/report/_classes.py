"""Report sections on the classes: a table of the classes, the confusion matrix, and curves of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from incr_core.metrics import Statistics, average_precision
from incr_core.report._course import Floats
from incr_core.report._curve_plots import precision_recall_plot, reliability_plot, roc_plot
from incr_core.report._sections import html_table, section
from incr_core.report._words import count, escaped, number, short

__all__ = ["classes"]

_MOST_CLASSES = 30
_MOST_IN_MATRIX = 12
_MOST_CURVES = 6


def classes(job: Mapping[str, Any], statistics: Statistics) -> str:
    """Sections on the classes, from the sums over all rows that were predicted before they were learned.

    Empty if the statistics have no classes, as for a regression or a custom objective.
    """
    matrix = statistics.get("confusion", statistics.get("matrix"))
    counted = statistics.get("classes")
    if counted is None and matrix is not None:
        counted = np.stack([np.diag(matrix), matrix.sum(0), matrix.sum(1)])
    if counted is None or "calibration" not in statistics:
        return ""
    names = _names(job, counted.shape[1])
    scores = _scores(statistics)
    body = [
        section("Classes", "Rows as they were predicted, before they were learned.", _table(names, counted, scores))
    ]
    if matrix is not None:
        body.append(_confusion(names, matrix))
    body.append(_curves(names, counted, scores, statistics["calibration"], binary="confusion" in statistics))
    return "".join(body)


def _names(job: Mapping[str, Any], classes: int) -> list[str]:
    named = list(map(str, job.get("features", {}).get("classes") or []))
    return (named + [str(one) for one in range(len(named), classes)])[:classes]


def _scores(statistics: Statistics) -> list[Floats]:
    """For each class, rows of other classes and of this class by bin of its probability, (2, BINS). May be empty."""
    if "class_scores" in statistics:
        return list(statistics["class_scores"])
    if "scores" not in statistics:
        return []
    second = statistics["scores"][0]
    return [second[::-1, ::-1], second]


def _table(names: Sequence[str], counted: Floats, scores: Sequence[Floats]) -> str:
    right, predicted, true = counted
    rows = []
    for c in np.argsort(-true, kind="stable")[:_MOST_CLASSES]:
        precision, recall = _ratio(right[c], predicted[c]), _ratio(right[c], true[c])
        area = float(average_precision(scores[c])) if c < len(scores) else math.nan
        f1 = _ratio(2 * right[c], predicted[c] + true[c])
        share = _ratio(true[c], true.sum())
        rows.append(
            [
                escaped(short(names[c], 40)),
                f"{count(true[c])} <small>{100 * share:.2g}%</small>",
                count(predicted[c]),
                *map(number, (precision, recall, f1, area)),
            ]
        )
    left = len(names) - len(rows)
    head = ["class", "rows", "predicted", "precision", "recall", "F1", "average precision"]
    return html_table(head, rows, numeric=tuple(range(1, 7))) + (f"<p>and {count(left)} rarer ones</p>" if left else "")


def _confusion(names: Sequence[str], matrix: Floats) -> str:
    shown = np.argsort(-matrix.sum(1), kind="stable")[:_MOST_IN_MATRIX]
    shown = np.sort(shown)
    of_class = np.maximum(matrix.sum(1), 1)
    rows = []
    for c in shown:
        cells = "".join(_cell(matrix[c, k], matrix[c, k] / of_class[c], right=c == k) for k in shown)
        rows.append(f"<tr><th>{escaped(short(names[c], 20))}</th>{cells}</tr>")
    head = "".join(f"<th>{escaped(short(names[k], 20))}</th>" for k in shown)
    table = f'<table class="matrix"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    note = "Lines: the true class. Columns: the class predicted. Shade: share of the line."
    if len(shown) < len(names):
        note += f" The {len(shown)} most frequent of {count(len(names))} classes."
    return section("Confusion matrix", note, f'<div class="scroll">{table}</div>')


def _cell(rows: float, share: float, *, right: bool) -> str:
    colour = "0,114,178" if right else "213,94,0"
    return f'<td style="background:rgba({colour},{0.75 * share:.2f})">{count(rows)}</td>'


def _curves(
    names: Sequence[str], counted: Floats, scores: Sequence[Floats], calibration: Floats, *, binary: bool
) -> str:
    of = f"of class {names[1]}" if binary else "of the most likely class"
    plots = [("Reliability", f"Probability {of}, and how often it was right.", reliability_plot(calibration))]
    shown = [1] if binary else [int(c) for c in np.argsort(-counted[2], kind="stable")[:_MOST_CURVES]]
    lines = [(short(names[c], 20), scores[c]) for c in shown if c < len(scores) and scores[c].sum(1).all()]
    if lines:
        which = f"Class {names[1]} against the other." if binary else "Each class against all others."
        plots.append(("ROC curve", which, roc_plot(lines)))
        plots.append(("Precision and recall", which, precision_recall_plot(lines)))
    cells = "".join(f"<div><h3>{title}</h3><p>{escaped(note)}</p>{plot}</div>" for title, note, plot in plots)
    return section(
        "Scores", "From histograms of the probabilities of all rows predicted.", f'<div class="side">{cells}</div>'
    )


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b else math.nan
