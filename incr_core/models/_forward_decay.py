"""Sums that forget: rows count more the later they come, so that adding is all it takes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["freshness"]

MANY = 50.0
"""Half-lives after which the half-life grows: from then on it is this part of all rows."""

FEW = 5.0
"""The half-life is this part of all rows before, where it begins short."""


def freshness(rows: Tensor, half_life: float, *, early: bool = False) -> Tensor:
    """What a row counts that comes after so many others: twice as much as one `half_life` rows before it.

        g(n) = 2^a        da / dn = 1 / H(n)        H(n) = max(half_life, n / 50)

    and with `early` H(n) = n / 5 up to n = 5 half_life, but half_life / 20 at least: for what changes much while little
    is known, such as how good a model is that has just begun.

    A sum in which old rows must fade is multiplied by something, and what is multiplied does not merge by adding. To
    let new rows weigh more instead is the same but for a factor, which cancels where sums are divided by sums; and what
    all participants add, from the same count of rows on, is added up in any order (Cormode et al. 2009, "Forward decay:
    a practical time decay model for streaming systems"). With a half-life that grows, float64 holds it for longer than
    there are rows.

    rows: how many came before, float64.

    >>> freshness(torch.tensor([0.0, 1000.0, 3000.0], dtype=torch.float64), half_life=1000).tolist()
    [1.0, 2.0, 8.0]
    >>> bool(freshness(torch.tensor(1e12, dtype=torch.float64), half_life=1000).isfinite())
    True
    """
    age = rows / half_life
    begins = 0.0
    if early:
        shortest = FEW / 20  # half-lives until which it is the shortest
        begins = FEW * (1.0 + math.log(20)) - FEW  # what is gained by a shorter one, in the end
        log = FEW * (1.0 + (age.clamp(min=shortest) / shortest).log())
        first = torch.where(age <= shortest, 20 * age, log)
    late = MANY * (1.0 + (age.clamp(min=MANY) / MANY).log())
    exponent = torch.where(age <= MANY, age, late) + begins
    return torch.exp2(torch.where(age < FEW, first, exponent) if early else exponent)
