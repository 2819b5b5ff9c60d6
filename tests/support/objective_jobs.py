"""Streams whose targets have several parts, and small jobs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from incr_core.job import Job


def job(path: Path, label: str | list[str], objective: str, **sections: Any) -> Job:
    document: dict[str, Any] = {
        "stream": {"path": str(path), "every": 250, "settle": "0s"},
        "features": {"label": label},
        "model": {"hidden": [32]},
        "learner": {"objective": objective, "epochs": 3, "optimizer": {"name": "adam", "lr": 0.01}},
        "strategy": [{"name": "replay", "capacity": 300}],
    }
    for name, section in sections.items():
        document[name] = document[name] | section
    return Job.from_document(document).resolved()


def tagged(rows: int = 1500) -> pa.Table:
    """Tags that numbers decide, as lists and as columns."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(rows, 3))
    truth = np.stack([x[:, 0] > 0, x[:, 1] > 0.5, x[:, 0] + x[:, 2] > 0], axis=1)
    names = np.array(["red", "green", "blue"])
    return pa.table(
        {
            **{f"x{index}": x[:, index] for index in range(3)},
            "tags": [names[row].tolist() for row in truth],
            **{name: truth[:, index].astype(np.int8) for index, name in enumerate(names)},
        }
    )


def chosen(rows: int = 2000, seed: int = 0) -> pa.Table:
    """People choose the product of their own taste; every product has a price, which tells nothing."""
    draw = np.random.default_rng(seed)
    taste = draw.integers(0, 8, rows)
    product = np.where(draw.random(rows) < 0.95, taste, draw.integers(0, 8, rows)) + 8 * draw.integers(0, 5, rows)
    return pa.table(
        {
            "taste": [f"t{value}" for value in taste],
            "age": draw.normal(40, 10, rows),
            "product": [f"p{value}" for value in product],
            "price": (product * 7 % 11).astype(float),
            "bought": np.ones(rows, dtype=np.int8),
        }
    )


def counted(rows: int = 1200, length: int = 9) -> pa.Table:
    """Sequences that count up by one or by two, modulo 11."""
    draw = np.random.default_rng(0)
    start, step = draw.integers(0, 11, rows), draw.integers(1, 3, rows)
    return pa.table({"words": list((start[:, None] + step[:, None] * np.arange(length)) % 11)})
