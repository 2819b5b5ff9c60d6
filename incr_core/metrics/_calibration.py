"""How far confidence is from how often it is right: ECE over ten equal bins (Naeini et al. 2015)."""

from __future__ import annotations

import numpy as np

from incr_core.metrics._ratios import ratio
from incr_core.metrics._sums import Array, on_grid

__all__ = ["calibration", "calibration_error"]

CALIBRATION_BINS = 10


def calibration(confidence: Array, right: Array, w: Array) -> Array:
    """Rows, confidence and hits in each of ten bins: (3, 10)."""
    index = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    terms = (w, on_grid(w * confidence), w * right)
    return np.stack([np.bincount(index, term, CALIBRATION_BINS) for term in terms])


def calibration_error(bins: Array) -> float:
    """The mean distance of confidence (3, 10) from hits.

    >>> calibration_error(calibration(np.array([0.75, 0.75]), np.array([1.0, 0.0]), np.ones(2)))
    0.25
    """
    rows, confidence, hits = bins
    return ratio(float(abs(confidence - hits).sum()), float(rows.sum()))
