"""A table with a little of everything, for tests that need some data and do not care which."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

__all__ = ["made_up"]


def made_up(rows: int, seed: int = 0) -> pa.Table:
    """A table with a little of everything: numbers, categories, three kinds of label, time."""
    draw = np.random.default_rng(seed)
    height, weight = draw.normal(170, 10, rows), draw.normal(70, 12, rows)
    colour = draw.choice(["red", "green", "blue"], rows)
    score = (height - 170) / 10 + (weight - 70) / 12 + 1.5 * (colour == "red") + draw.normal(0, 0.5, rows)
    return pa.table(
        {
            "height": height,
            "weight": weight,
            "colour": colour,
            "at": (np.datetime64("2020-01-01", "s") + np.arange(rows) * np.timedelta64(60, "s")),
            "tall": (score > 0.5).astype(np.int8),
            "size": np.where(score < -0.5, "small", np.where(score < 1.0, "medium", "large")),
            "score": 1000.0 + 250.0 * score,
        }
    )
