"""ROC and precision-recall curves, and the area under the latter, from histograms of scores."""

from __future__ import annotations

import numpy as np

from incr_core.metrics._sums import Array

__all__ = ["average_precision", "precision_recall_curve", "roc_curve"]


def roc_curve(counts: Array) -> tuple[Array, Array]:
    """False and true positive rates at every bin's lower edge, (BINS + 1,) each, from (0, 0) to (1, 1).

    counts: rows by class and bin of scores, (2, BINS), as `score_histogram` gives them first. NaN where a class has
    no rows.

    >>> false, true = roc_curve(np.array([[1.0, 1.0], [0.0, 2.0]]))
    >>> false.tolist(), true.tolist()
    ([0.0, 0.5, 1.0], [0.0, 1.0, 1.0])
    """
    negatives, positives = _from_above(counts)
    with np.errstate(invalid="ignore"):
        return negatives / negatives[-1], positives / positives[-1]


def precision_recall_curve(counts: Array) -> tuple[Array, Array]:
    """Recall and precision at the lower edge of every bin above which there are rows, highest scores first.

    counts: as for `roc_curve`.

    >>> recall, precision = precision_recall_curve(np.array([[1.0, 1.0], [0.0, 2.0]]))
    >>> recall.tolist(), precision.round(3).tolist()
    ([1.0, 1.0], [0.667, 0.5])
    """
    negatives, positives = (sums[1:] for sums in _from_above(counts))
    rows = negatives + positives
    some = rows > 0
    with np.errstate(invalid="ignore"):
        return positives[some] / positives[-1], positives[some] / rows[some]


def average_precision(counts: Array) -> Array:
    """The area under the precision-recall curve, sum_b integral of precision d recall over bin b.

    Within a bin, positives and negatives are taken as evenly mixed (Davis and Goadrich 2006, section 3): with P
    positives among T rows above it, p and n - p in it,

        integral = (p / n) (p + (P - T p / n) log(1 + n / T)) / all positives

    With 200 positives or more it is within 3e-3 of the exact average precision, mostly below.

    Args:
        counts: Rows by class and bin of scores as for `roc_curve`, (..., 2, BINS).

    Returns:
        The area of each pair of classes, (...,); NaN where there are no positives.

    Example:
        >>> average_precision(np.array([[[2.0, 0.0], [0.0, 3.0]], [[3.0, 0.0], [1.0, 0.0]]])).tolist()
        [1.0, 0.25]
    """
    pairs = counts.reshape(-1, *counts.shape[-2:])
    negatives, positives = np.moveaxis(_from_above(pairs), -2, 0)
    falling = pairs[..., ::-1]
    # Counts of bins are not differences of sums, in which a heavy row absorbs others.
    pair, some = np.nonzero(falling[:, 1])
    inside, of_bin = falling[pair, 1, some], falling[pair, :, some].sum(axis=1)
    above = positives[pair, some]
    rows = above + negatives[pair, some]
    share = inside / of_bin
    grown = np.log1p(np.divide(of_bin, rows, out=np.zeros_like(rows), where=rows > 0))
    areas = np.bincount(pair, share * (inside + (above - rows * share) * grown), len(pairs))
    every = positives[:, -1]
    found = np.divide(areas, every, out=np.full(len(pairs), np.nan), where=every > 0)
    return np.asarray(found.reshape(counts.shape[:-2]))


def _from_above(counts: Array) -> Array:
    """Rows of each class with at least a score, (..., 2, BINS + 1), from the highest bin down."""
    sums = np.zeros((*counts.shape[:-1], counts.shape[-1] + 1))
    np.cumsum(counts[..., ::-1], axis=-1, out=sums[..., 1:])
    return sums
