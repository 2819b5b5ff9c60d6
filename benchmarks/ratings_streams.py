"""Made-up ratings and choices: low rank, biases, popularity that falls off as a power, users who come late, drift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["BLOCK", "CHOICES", "RATINGS", "Interactions"]

BLOCK = 500
"""Rows that are predicted before they are learned."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Interactions:
    """Who rated, or chose, what: users (n,), items (n,) and the ratings (n,), 1 for choices."""

    user: Array
    item: Array
    value: Array

    def __len__(self) -> int:
        return len(self.user)


def ratings(
    seed: int,
    users: int = 1500,
    items: int = 600,
    rows: int = 60_000,
    rank: int = 6,
    strength: float = 0.45,
    drift: float = 0.0,
    noise: float = 0.7,
) -> Interactions:
    """Stars from 1 to 5.

        y = 3.6 + b_u + b_i + p_u . q_i(t) + e, rounded        e of standard deviation `noise`

    strength: the variance of p . q is about its square. drift: how far factors of items go, in their own spread, from
    the first row to the last.
    """
    draw = np.random.default_rng(seed)
    bias_user, bias_item = draw.normal(0, 0.45, users), draw.normal(0, 0.45, items)
    scale = np.sqrt(strength) / rank**0.25
    of_user, of_item = draw.normal(0, scale, (users, rank)), draw.normal(0, scale, (items, rank))
    later = of_item + draw.normal(0, 1, of_item.shape) * drift
    user, time = _who(draw, users, rows)
    item = draw.choice(items, rows, p=_popularity(draw, items, 0.8))
    now = of_item[item] * (1 - time[:, None]) + later[item] * time[:, None]
    stars = 3.6 + bias_user[user] + bias_item[item] + (of_user[user] * now).sum(1) + draw.normal(0, noise, rows)
    return Interactions(user, item, np.clip(np.rint(stars), 1, 5))


def choices(
    seed: int, users: int = 1000, items: int = 500, rows: int = 40_000, rank: int = 6, taste: float = 1.0
) -> Interactions:
    """Items drawn from softmax(log popularity + taste p_u . q_i)."""
    draw = np.random.default_rng(seed)
    of_user, of_item = draw.normal(size=(users, rank)), draw.normal(size=(items, rank))
    liked = np.log(_popularity(draw, items, 0.8)) + taste * of_user @ of_item.T / rank**0.5
    user, _ = _who(draw, users, rows)
    item = (liked[user] + draw.gumbel(size=(rows, items))).argmax(1)
    return Interactions(user, item, np.ones(rows))


def _popularity(draw: np.random.Generator, count: int, power: float) -> Array:
    weights = draw.permutation(1.0 / np.arange(1, count + 1) ** power)
    found: Array = weights / weights.sum()
    return found


def _who(draw: np.random.Generator, users: int, rows: int) -> tuple[Array, Array]:
    """The user of each row, of whom three quarters come in the course of the stream, and its time in [0, 1)."""
    active, born = _popularity(draw, users, 0.6), draw.random(users) * 0.8
    born[: users // 4] = 0.0
    time = np.arange(rows) / rows
    user = np.empty(rows, dtype=np.int64)
    for start in range(0, rows, BLOCK):
        weights = active * (born <= time[start])
        count = min(BLOCK, rows - start)
        user[start : start + count] = draw.choice(users, count, p=weights / weights.sum())
    return user, time


RATINGS: dict[str, Callable[[int], Interactions]] = {
    "ratings": ratings,
    "drift": lambda seed: ratings(seed, drift=1.0),
    "noise": lambda seed: ratings(seed, strength=0.2, noise=0.9),
    "many users": lambda seed: ratings(seed, users=6000, items=2000),
}
CHOICES: dict[str, Callable[[int], Interactions]] = {
    "choices": choices,
    "strong taste": lambda seed: choices(seed, taste=2.0),
}
