"""Forward decay: sums that weight later rows more, so that addition is the only operation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["freshness"]

MANY = 50.0
"""Number of half-lives after which the half-life grows: from then on it is this fraction of all rows."""

FEW = 5.0
"""If the half-life starts short, it is this fraction of all earlier rows."""


def freshness(rows: Tensor, half_life: float, *, early: bool = False) -> Tensor:
    """Return the weight of a row after `rows` others: twice that of a row `half_life` rows earlier.

        g(n) = 2^a        da / dn = 1 / H(n)        H(n) = max(half_life, n / 50)

    With `early`, H(n) = n / 5 up to n = 5 half_life, but at least half_life / 20. It suits quantities that change fast
    while few rows are known, such as the accuracy of a model that has just started.

    A sum with decay is usually multiplied by a factor, and multiplied sums do not merge by addition. Giving new rows a
    larger weight instead differs only by a common factor, which cancels in ratios of sums; and additions of several
    participants that start from the same count merge in any order. Because the half-life grows, float64 suffices for
    any realistic number of rows.

    Args:
        rows: Number of earlier rows, float64.
        half_life: The half-life in rows.
        early: Whether the half-life starts short.

    Example:
        >>> freshness(torch.tensor([0.0, 1000.0, 3000.0], dtype=torch.float64), half_life=1000).tolist()
        [1.0, 2.0, 8.0]
        >>> bool(freshness(torch.tensor(1e12, dtype=torch.float64), half_life=1000).isfinite())
        True

    Reference:
        Cormode et al. 2009, "Forward decay: a practical time decay model for streaming systems".
    """
    age = rows / half_life
    begins = 0.0
    if early:
        shortest = FEW / 20  # age, in half-lives, up to which the half-life is shortest
        begins = FEW * (1.0 + math.log(20)) - FEW  # total gain of the exponent by the shorter half-life
        log = FEW * (1.0 + (age.clamp(min=shortest) / shortest).log())
        first = torch.where(age <= shortest, 20 * age, log)
    late = MANY * (1.0 + (age.clamp(min=MANY) / MANY).log())
    exponent = torch.where(age <= MANY, age, late) + begins
    return torch.exp2(torch.where(age < FEW, first, exponent) if early else exponent)
