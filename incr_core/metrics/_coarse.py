"""Coarse statistics, for storing those of many clients."""

from __future__ import annotations

import numpy as np

from incr_core.metrics._histograms import BINS
from incr_core.metrics._packed import Packed, total
from incr_core.metrics._sums import Array, Statistics
from incr_core.metrics._trivial import TRIVIAL

__all__ = ["FINE", "coarse"]

FINE = frozenset({"matrix", "class_scores", TRIVIAL})
"""Statistics that only the report over all rows shows."""

WIDTH = 16
"""Number of score bins that are merged into one."""


def coarse(statistics: Packed) -> Statistics:
    """Return the statistics with a sixteenth of the score bins: the AUC changes by less than 2e-3.

    Statistics in `FINE` are left out.

    Example:
        >>> from incr_core.metrics import binary_metrics, binary_statistics
        >>> import torch
        >>> fine = binary_statistics(torch.tensor([0.9, 0.2, 0.6, 0.3]), torch.tensor([1.0, 0.0, 0.0, 1.0]))
        >>> coarse(fine)["scores"].shape, binary_metrics(coarse(fine))["auc"]
        ((3, 2, 128), 0.75)
    """
    whole = total([statistics])
    return {
        name: _coarse(array) if _is_histogram(array) else array for name, array in whole.items() if name not in FINE
    }


def _is_histogram(array: Array) -> bool:
    return array.ndim == 3 and array.shape == (3, 2, BINS)


def _coarse(scores: Array) -> Array:
    """Merge bins of counts, offsets and squares (3, 2, BINS), as `score_histogram` makes them."""
    count, offset, square = scores.reshape(3, 2, BINS // WIDTH, WIDTH)
    place = np.arange(WIDTH)  # place of a bin in the wider bin
    offsets = place * count + offset
    squares = place * (offsets + offset) + square
    return np.stack([count.sum(2), offsets.sum(2) / WIDTH, squares.sum(2) / WIDTH**2])
