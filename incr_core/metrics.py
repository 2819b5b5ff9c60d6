"""Prequential metrics from sums: whoever holds the rows counts them, and counts add.

Every `*_statistics` function turns predictions and targets of some rows into a few float64 arrays; `add`
merges two such dictionaries by adding, and the matching `*_metrics` function reads the numbers off. No rows
move between workers. The order and the split do not matter either, to the last bit: floating-point addition
is exact as long as the terms are multiples of one small unit and the total stays below 2**53 of them, so
bounded terms are rounded to a grid first (`_on_grid`) and unbounded ones are cut into parts that lie on one
(`_exact_sums`). Fractional row weights can cost the last bits of a score histogram, and nothing else.

What is undefined (no rows, one class only) is NaN, without a warning. A NaN prediction makes every metric
NaN: the model is broken, and the mean of the other rows would hide it.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from incr_core.errors import JobError

__all__ = [
    "Statistics",
    "add",
    "binary_metrics",
    "binary_statistics",
    "last_labels",
    "main_metric",
    "multiclass_metrics",
    "multiclass_statistics",
    "multilabel_metrics",
    "multilabel_statistics",
    "ranking_metrics",
    "ranking_statistics",
    "regression_metrics",
    "regression_statistics",
]

Array = npt.NDArray[Any]
Statistics = dict[str, Array]

BINS = 2048  # of the score histogram; see `_score_histogram` and `_auc`
CALIBRATION_BINS = 10
CUTOFFS = (1, 5, 10, 20)  # the k of recall@k and ndcg@k
LEAST = 1e-7  # log loss takes no probability as less than this: float32 cannot tell 1 - 1e-8 from 1

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
        raise JobError(f"objective: expected one of {', '.join(_MAIN)}, got {objective!r}")
    return _MAIN[objective]


def add(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of the rows of both; `{}` is those of no rows.

    A model that has grown a class counts more classes than before: the shorter array is padded with zeros.

    >>> one = multiclass_statistics(torch.tensor([[0.8, 0.2]]), torch.tensor([0]))
    >>> two = multiclass_statistics(torch.tensor([[0.1, 0.8, 0.1]]), torch.tensor([2]))
    >>> multiclass_metrics(add(add({}, one), two))["accuracy"]
    0.5
    """
    both = {name: _padded_sum(a[name], b[name]) for name in a.keys() & b.keys()}
    return {name: both.get(name, array) for name, array in {**a, **b}.items()}


def binary_statistics(
    probability: Tensor, target: Tensor, weight: Tensor | None = None, previous: Tensor | None = None
) -> Statistics:
    """Count predicted probabilities (n,) against targets (n,) of 0 and 1, each row `weight` (n,) times.

    `previous` (n,) is the label the last-class baseline would have predicted for each row (see
    `last_labels`), and adds kappa_t to the metrics.
    """
    p, y, w = _floats(probability).clip(0.0, 1.0), _floats(target), _weights(weight, len(target))
    loss = -np.log(np.where(y > 0.5, p, 1.0 - p).clip(LEAST, 1.0))
    sums = _on_grid(np.stack([loss, (p - y) ** 2]) * w).sum(1)
    p = np.nan_to_num(p, copy=False, nan=0.5)  # the NaN stays in the sums, and from there in every metric
    predicted = p > 0.5
    statistics = {
        "sums": sums,
        "confusion": np.bincount((2 * y + predicted).astype(np.int64), w, 4).reshape(2, 2),
        "calibration": _calibration(p, y, w),
        "scores": _score_histogram(p, y, w),
    }
    if previous is not None:
        statistics["temporal"] = _temporal(predicted == y, y, _floats(previous), w)
    return statistics


def binary_metrics(statistics: Statistics) -> dict[str, float]:
    """AUC, log loss, accuracy, precision, recall, F1, Brier, calibration error, Cohen's kappa, base rate.

    A row is predicted positive above 0.5. Calibration error is ECE over ten equal bins (Naeini et al. 2015);
    kappa_t, where the statistics have it, is defined under `last_labels`.

    >>> rows = torch.tensor([0.9, 0.2, 0.6, 0.3]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    >>> metrics = binary_metrics(binary_statistics(*rows))
    >>> metrics["auc"], metrics["accuracy"], metrics["brier"]
    (0.75, 0.5, 0.225000...)
    >>> binary_metrics({})["auc"]
    nan
    """
    if not statistics:
        statistics = binary_statistics(torch.empty(0), torch.empty(0))
    (tn, fp), (fn, tp) = statistics["confusion"].tolist()
    loss, squares = statistics["sums"].tolist()
    rows = tn + fp + fn + tp
    agreement = _ratio(tp + tn, rows)
    chance = _ratio((tp + fp) * (tp + fn) + (tn + fn) * (tn + fp), rows * rows)
    metrics = {
        "auc": _auc(statistics["scores"]),
        "log_loss": _ratio(loss, rows),
        "accuracy": agreement,
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "brier": _ratio(squares, rows),
        "calibration_error": _calibration_error(statistics["calibration"]),
        "kappa": _ratio(agreement - chance, 1 - chance),
        "base_rate": _ratio(tp + fn, rows),
    }
    return _unless_broken(metrics | _kappa_temporal(statistics), loss)


def multiclass_statistics(
    probability: Tensor, target: Tensor, weight: Tensor | None = None, previous: Tensor | None = None
) -> Statistics:
    """Count predicted probabilities (n, C) against target classes (n,), each row `weight` (n,) times.

    Per class it keeps how often it was right, predicted and true: all that the metrics below ask of a
    confusion matrix, in 3C numbers instead of C * C. A target the model has no output for had probability
    zero. `previous`: as in `binary_statistics`.
    """
    p, y, w = _floats(probability), target.detach().cpu().numpy(), _weights(weight, len(target))
    outputs = p.shape[1]
    classes = max(outputs, int(y.max(initial=-1)) + 1)
    rows = np.arange(len(y))
    of_target = np.where(y < outputs, p[rows, np.minimum(y, outputs - 1)], 0.0)
    loss = -np.log(of_target.clip(LEAST, 1.0)) + 0.0 * p.sum(1)  # a NaN beside the target counts too
    p = np.nan_to_num(p, copy=False)
    top = p.argmax(1)
    right = top == y
    statistics = {
        "sums": np.array([_on_grid(loss * w).sum()]),
        "classes": np.stack([np.bincount(c, v, classes) for c, v in ((y, w * right), (top, w), (y, w))]),
        "calibration": _calibration(p[rows, top].clip(0.0, 1.0), right, w),
    }
    if previous is not None:
        statistics["temporal"] = _temporal(right, y, _floats(previous), w)
    return statistics


def multiclass_metrics(statistics: Statistics) -> dict[str, float]:
    """Accuracy, macro precision, recall and F1, log loss, Cohen's kappa, calibration error of the top class.

    A class neither predicted nor true is left out of the macro means; one that is only predicted, or only
    true, counts as zero where its precision, recall or F1 is 0/0. (So does torchmetrics.)

    >>> rows = torch.eye(3)[[0, 1, 1, 2]], torch.tensor([0, 1, 2, 2])
    >>> multiclass_metrics(multiclass_statistics(*rows))["recall"]
    0.8333...
    """
    if not statistics:
        statistics = multiclass_statistics(torch.empty(0, 1), torch.empty(0, dtype=torch.int64))
    right, predicted, true = statistics["classes"]
    loss, rows = float(statistics["sums"][0]), float(true.sum())
    agreement = _ratio(float(right.sum()), rows)
    chance = _ratio(float(predicted @ true), rows * rows)
    seen = predicted + true > 0
    metrics = {
        "accuracy": agreement,
        **{name: _mean(values[seen]) for name, values in _per_class(right, predicted, true).items()},
        "log_loss": _ratio(loss, rows),
        "kappa": _ratio(agreement - chance, 1 - chance),
        "calibration_error": _calibration_error(statistics["calibration"]),
    }
    return _unless_broken(metrics | _kappa_temporal(statistics), loss)


def last_labels(target: Tensor, before: int | None = None) -> Tensor:
    """The label ahead of each row: what the last-class baseline predicts when labels arrive at once.

    `before` is the label ahead of the first row; without one the first row has no baseline (-1) and kappa_t
    skips it. A stream whose labels come late builds its own (n,) tensor, of the last label *known* at each
    prediction.

        kappa_t = (accuracy - accuracy of the baseline) / (1 - accuracy of the baseline)

    Zero is no better than repeating the last class, which autocorrelated streams make hard to beat. Bifet,
    Read, Zliobaite, Pfahringer, Holmes: Pitfalls in benchmarking data stream classification (ECML PKDD
    2013). Order enters here, in the rows, and not in the sums: merging stays a sum in any order.

    >>> last_labels(torch.tensor([3, 3, 5]), before=1)
    tensor([1, 3, 3])
    >>> y = torch.tensor([0, 0, 1, 1, 1])
    >>> right_but_for_the_last = torch.tensor([0.1, 0.1, 0.9, 0.9, 0.1])
    >>> binary_metrics(binary_statistics(right_but_for_the_last, y, previous=last_labels(y)))["kappa_t"]
    0.0
    """
    labels = target.to(torch.int64)
    first = labels.new_full((min(1, len(labels)),), -1 if before is None else before)
    return torch.cat([first, labels[:-1]])


def regression_statistics(value: Tensor, target: Tensor, weight: Tensor | None = None) -> Statistics:
    """Sum errors of predicted values (n,) against targets (n,), each row `weight` (n,) times."""
    y, w = _floats(target), _weights(weight, len(target))
    error = _floats(value) - y
    ones = np.ones_like(y)
    return {"sums": _exact_sums(np.stack([ones, error, abs(error), error * error, y, y * y]) * w)}


def regression_metrics(statistics: Statistics) -> dict[str, float]:
    """MAE, RMSE, R2 and bias (the mean of value - target).

    R2 = 1 - sum e^2 / (sum y^2 - (sum y)^2 / n), where the last difference is taken between exact rationals:
    targets around a million that vary by one lose no digit. (float32 targets, that is: a float64 one rounds
    when squared.)

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


def multilabel_statistics(probability: Tensor, target: Tensor, weight: Tensor | None = None) -> Statistics:
    """Count probabilities (n, L) against targets (n, L) of 0 and 1, each row `weight` (n,) times."""
    p, y, w = _floats(probability).clip(0.0, 1.0), _floats(target), _weights(weight, len(target))
    loss = -np.log(np.where(y > 0.5, p, 1.0 - p).clip(LEAST, 1.0))
    predicted = p > 0.5
    return {
        "sums": np.array([_on_grid(loss.sum(1) * w).sum(), w.sum()]),
        "labels": np.stack([w @ (predicted * y), w @ predicted, w @ y, w @ (predicted == y)]),
    }


def multilabel_metrics(statistics: Statistics) -> dict[str, float]:
    """Accuracy and log loss over all labels, and F1 over all decisions (micro) and over labels (macro).

    A label that is neither predicted nor true counts as zero in the macro mean, as in torchmetrics.

    >>> rows = torch.tensor([[0.9, 0.8], [0.2, 0.4]]), torch.tensor([[1, 0], [0, 1]])
    >>> metrics = multilabel_metrics(multilabel_statistics(*rows))
    >>> metrics["micro_f1"], metrics["macro_f1"]
    (0.5, 0.5)
    """
    if not statistics:
        statistics = multilabel_statistics(torch.empty(0, 1), torch.empty(0, 1))
    right, predicted, true, agreed = statistics["labels"]
    loss, rows = statistics["sums"].tolist()
    decisions = rows * len(true)
    macro = _mean(_per_class(right, predicted, true)["f1"]) if rows else math.nan
    metrics = {
        "accuracy": _ratio(float(agreed.sum()), decisions),
        "micro_f1": _ratio(2 * float(right.sum()), float(predicted.sum() + true.sum())),
        "macro_f1": macro,
        "log_loss": _ratio(loss, decisions),
    }
    return _unless_broken(metrics, loss)


def ranking_statistics(scores: Tensor, relevant: Tensor, weight: Tensor | None = None) -> Statistics:
    """Rank K candidates by scores (n, K), each row `weight` (n,) times; rows with none relevant are skipped.

    `relevant` is the position (n,) of the one relevant candidate, or a grade (n, K) for each, zero for
    irrelevant.
    """
    s, w = _floats(scores), _weights(weight, len(scores))
    if relevant.ndim == 1:
        grade = np.zeros_like(s)
        grade[np.arange(len(s)), relevant.detach().cpu().numpy()] = 1.0
    else:
        grade = _floats(relevant)
    w = w * (grade > 0).any(1)
    order = np.argsort(-s, axis=1, kind="stable")
    first, last = _ties(np.take_along_axis(s, order, 1))
    grade = np.take_along_axis(grade, order, 1)
    ideal = -np.sort(-grade, axis=1)
    gain = 1.0 / np.log2(np.arange(s.shape[1]) + 2.0)
    broken = 0.0 * s.sum(1)  # NaN for a row with a NaN score
    sums = []
    for k in CUTOFFS:
        inside = np.arange(s.shape[1]) < k
        hits = (_mean_over_ties(inside, first, last) * (grade > 0)).sum(1) / (grade > 0).sum(1).clip(1)
        gained = (_mean_over_ties(gain * inside, first, last) * grade).sum(1)
        best = (ideal * gain * inside).sum(1)
        for term in (hits, gained / np.where(best > 0, best, 1.0)):
            sums.append(_on_grid((term + broken) * w).sum())
    return {"sums": np.array([*sums, w.sum()])}


def ranking_metrics(statistics: Statistics) -> dict[str, float]:
    """recall@k and ndcg@k for k in 1, 5, 10, 20, with linear gain (Jarvelin and Kekalainen 2002).

    Candidates of equal score share the mean of what their places earn: a model that scores everything alike
    gets what chance gets, wherever the relevant candidate happens to stand.

    >>> scores = torch.tensor([[0.1, 0.9, 0.5], [0.9, 0.2, 0.1]])
    >>> metrics = ranking_metrics(ranking_statistics(scores, torch.tensor([2, 0])))
    >>> metrics["recall@1"], metrics["recall@5"], metrics["ndcg@5"]
    (0.5, 1.0, 0.8154...)
    """
    names = [f"{name}@{k}" for k in CUTOFFS for name in ("recall", "ndcg")]
    *sums, rows = statistics.get("sums", np.zeros(len(names) + 1)).tolist()
    return {name: _ratio(value, rows) for name, value in zip(names, sums, strict=True)}


# -- rows to arrays --


def _floats(tensor: Tensor) -> Array:
    """A float64 copy on the CPU."""
    return tensor.detach().to("cpu", torch.float64, copy=True).numpy()


def _weights(weight: Tensor | None, rows: int) -> Array:
    return np.ones(rows) if weight is None else _on_grid(_floats(weight))


# -- exact sums --


def _on_grid(terms: Array) -> Array:
    """Terms rounded to multiples of 2**-24, so that totals up to 2**29 add without rounding, in any order."""
    return np.rint(terms * 2.0**24) * 2.0**-24


_UNITS = 2.0 ** np.array([[[-60], [-40], [-20], [0], [20], [40], [60]]])


def _exact_sums(terms: Array) -> Array:
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


def _padded_sum(a: Array, b: Array) -> Array:
    if a.shape == b.shape:
        return a + b
    total = np.zeros(np.maximum(a.shape, b.shape))
    for part in (a, b):
        total[tuple(slice(size) for size in part.shape)] += part
    return total


# -- ratios --


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else math.nan


def _unless_broken(metrics: dict[str, float], loss: float) -> dict[str, float]:
    return dict.fromkeys(metrics, math.nan) if math.isnan(loss) else metrics


def _per_class(right: Array, predicted: Array, true: Array) -> dict[str, Array]:
    """Precision, recall and F1 of each class (C,), 0/0 taken as zero."""

    def ratio(a: Array, b: Array) -> Array:
        return a / np.where(b > 0, b, 1.0)

    return {
        "precision": ratio(right, predicted),
        "recall": ratio(right, true),
        "f1": ratio(2 * right, predicted + true),
    }


# -- AUC from a histogram --


_SPAN = math.asinh(46.0)  # the logit of the least positive float32, about -92, halved


def _score_histogram(p: Array, y: Array, w: Array) -> Array:
    """For each class and bin of scores: rows, sum of offsets, sum of their squares: (3, 2, BINS).

    Bins are equal in asinh(logit / 2). The logit spreads what crowds near 0 and 1 (a rare class may have
    every probability below 0.01), and the asinh covers all of float32 without clipping, with the finest bins
    around 1/2. Offsets run from 0 to 1 across a bin, in steps of 2**-15 that keep even the squares' sums
    exact.
    """
    inside = p.clip(1e-40, 1.0 - 1e-16)
    position = (np.arcsinh(0.5 * (np.log(inside) - np.log1p(-inside))) / _SPAN + 1.0) * (BINS / 2)
    step = (position.clip(0.0, BINS * (1.0 - 1e-9)) * 2.0**15).astype(np.int64)
    index = (step >> 15) + BINS * (y > 0.5)
    offset = (step & (2**15 - 1)) * 2.0**-15
    sums = [np.bincount(index, value, 2 * BINS) for value in (w, w * offset, w * offset * offset)]
    return np.stack(sums).reshape(3, 2, BINS)


def _auc(scores: Array) -> float:
    """P(score of a positive > score of a negative), ties half (Hanley and McNeil 1982).

    Pairs in different bins are counted. Pairs that share a bin are compared as two normal variables with the
    means and variances seen there: exact for two points or for equal scores, and second order in the bin's
    width for smooth ones, where a histogram alone calls them all ties. Measured against the exact AUC, for
    10,000 rows or more: below 1e-4 when the logits spread by 0.5 or more (a histogram alone: 1e-3), below
    1e-3 at 0.1, and 1e-2 when all of them lie within a few bins.
    """
    (negatives, positives) = scores[0]
    pairs = float(positives.sum() * negatives.sum())
    below = np.cumsum(negatives) - negatives
    shared = np.flatnonzero(positives * negatives)
    counts, offsets, squares = scores[:, :, shared]
    mean = offsets / counts
    deviation = np.sqrt((squares / counts - mean * mean).clip(0.0).sum(0))
    gap = (mean[1] - mean[0]) / deviation.clip(1e-6)  # two points: 1e-6 is far below one step of an offset
    wins = counts.prod(0) @ torch.special.ndtr(torch.from_numpy(gap)).numpy()
    return _ratio(float(positives @ below + wins), pairs)


# -- calibration and the last-class baseline --


def _calibration(confidence: Array, right: Array, w: Array) -> Array:
    """Rows, confidence and hits in each of ten bins: (3, 10)."""
    index = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    terms = (w, _on_grid(w * confidence), w * right)
    return np.stack([np.bincount(index, term, CALIBRATION_BINS) for term in terms])


def _calibration_error(calibration: Array) -> float:
    rows, confidence, hits = calibration
    return _ratio(float(abs(confidence - hits).sum()), float(rows.sum()))


def _temporal(right: Array, y: Array, previous: Array, w: Array) -> Array:
    """Of the rows that have a previous label: how many, how many right, how many unchanged."""
    w = w * (previous >= 0)
    return np.array([w.sum(), w @ right, w @ (previous == y)])


def _kappa_temporal(statistics: Statistics) -> dict[str, float]:
    if "temporal" not in statistics:
        return {}
    rows, right, unchanged = statistics["temporal"].tolist()
    return {"kappa_t": _ratio(right - unchanged, rows - unchanged)}


# -- ties in a ranking --


def _ties(sorted_scores: Array) -> tuple[Array, Array]:
    """For each place (n, K) the first place of its run of equal scores, and the place after the last."""
    rows, places = sorted_scores.shape
    starts = np.ones((rows, places), dtype=bool)
    starts[:, 1:] = sorted_scores[:, 1:] != sorted_scores[:, :-1]
    ends = np.ones((rows, places), dtype=bool)
    ends[:, :-1] = starts[:, 1:]
    place = np.arange(places)
    first = np.maximum.accumulate(np.where(starts, place, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, place + 1, places)[:, ::-1], axis=1)[:, ::-1]
    return first, last


def _mean_over_ties(earned: Array, first: Array, last: Array) -> Array:
    """What each place earns (K,), averaged over runs of equal scores: (n, K)."""
    total = np.concatenate([[0.0], np.cumsum(earned)])
    mean: Array = (total[last] - total[first]) / (last - first)
    return mean
