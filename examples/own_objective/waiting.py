"""A synthetic stream: waiting times, which depend on the numbers of people in the queue and at work, and on chance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def days(count: int = 30, rows: int = 300) -> Iterator[dict[str, np.ndarray]]:
    """Yield a table a day: people in the queue, people at work, and the minutes waited."""
    draw = np.random.default_rng(0)
    for _ in range(count):
        queue, staff = draw.integers(0, 10, rows), draw.integers(1, 4, rows)
        yield {"queue": queue, "staff": staff, "minutes": draw.exponential(1.0 + queue / staff)}
