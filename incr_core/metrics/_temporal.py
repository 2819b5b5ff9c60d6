"""Beside a baseline that repeats the last class, which autocorrelated streams make hard to beat."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from incr_core.metrics._sums import Array, Statistics, ratio

__all__ = ["kappa_temporal", "last_labels", "temporal"]


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
    >>> from incr_core.metrics._binary import binary_metrics
    >>> from incr_core.metrics._binary import binary_statistics
    >>> y = torch.tensor([0, 0, 1, 1, 1])
    >>> right_but_for_the_last = torch.tensor([0.1, 0.1, 0.9, 0.9, 0.1])
    >>> binary_metrics(binary_statistics(right_but_for_the_last, y, previous=last_labels(y)))["kappa_t"]
    0.0
    """
    labels = target.to(torch.int64)
    first = labels.new_full((min(1, len(labels)),), -1 if before is None else before)
    return torch.cat([first, labels[:-1]])


def temporal(right: Array, y: Array, previous: Array, w: Array) -> Array:
    """Of the rows that have a previous label: how many, how many right, how many unchanged."""
    w = w * (previous >= 0)
    return np.array([w.sum(), w @ right, w @ (previous == y)])


def kappa_temporal(statistics: Statistics) -> dict[str, float]:
    """kappa_t, as under `last_labels`, where the statistics have it."""
    if "temporal" not in statistics:
        return {}
    rows, right, unchanged = statistics["temporal"].tolist()
    return {"kappa_t": ratio(right - unchanged, rows - unchanged)}
