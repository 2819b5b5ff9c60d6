"""Comparison with the last-class baseline."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from incr_core.metrics._sums import Array, Statistics, ratio

__all__ = ["kappa_temporal", "last_labels", "temporal"]


def last_labels(target: Tensor, before: int | None = None) -> Tensor:
    """Return the label before each row: the prediction of the last-class baseline if labels arrive at once.

        kappa_t = (accuracy - accuracy of the baseline) / (1 - accuracy of the baseline)

    Zero is no better than repeating the last class, which is hard to beat on autocorrelated streams. Order matters
    here, within the rows, but not in the sums: merging stays an addition in any order.

    Args:
        target: Labels, (n,). A stream with late labels must pass instead, for each prediction, the last label *known*
            then.
        before: The label before the first row. None gives the first row no baseline (-1), and kappa_t skips it.

    Example:
        >>> last_labels(torch.tensor([3, 3, 5]), before=1)
        tensor([1, 3, 3])
        >>> from incr_core.metrics._binary import binary_metrics
        >>> from incr_core.metrics._binary import binary_statistics
        >>> y = torch.tensor([0, 0, 1, 1, 1])
        >>> right_but_for_the_last = torch.tensor([0.1, 0.1, 0.9, 0.9, 0.1])
        >>> binary_metrics(binary_statistics(right_but_for_the_last, y, previous=last_labels(y)))["kappa_t"]
        0.0

    Reference:
        Bifet, Read, Zliobaite, Pfahringer, Holmes: Pitfalls in benchmarking data stream classification (ECML PKDD
            2013).
    """
    labels = target.to(torch.int64)
    first = labels.new_full((min(1, len(labels)),), -1 if before is None else before)
    return torch.cat([first, labels[:-1]])


def temporal(right: Array, y: Array, previous: Array, w: Array) -> Array:
    """Count the rows that have a previous label, those predicted correctly, and those with an unchanged label."""
    w = w * (previous >= 0)
    return np.array([w.sum(), w @ right, w @ (previous == y)])


def kappa_temporal(statistics: Statistics) -> dict[str, float]:
    """Return kappa_t, defined under `last_labels`, if the statistics contain it."""
    if "temporal" not in statistics:
        return {}
    rows, right, unchanged = statistics["temporal"].tolist()
    return {"kappa_t": ratio(right - unchanged, rows - unchanged)}
