"""A synthetic stream whose concept rotates: the label is the side of a line, and the line turns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def days(count: int = 40, rows: int = 500) -> Iterator[dict[str, np.ndarray]]:
    """Yield a table a day: two coordinates, and the side of the day's line."""
    draw = np.random.default_rng(0)
    for day in range(count):
        angle = np.pi * day / count
        x, y = draw.normal(size=(2, rows))
        yield {"x": x, "y": y, "side": (np.cos(angle) * x + np.sin(angle) * y > 0).astype(np.int8)}
