"""A stream whose concept turns round at known rows, a small job that watches it, and all that it can do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from incr_core.job import Job

__all__ = ["EVERYTHING", "drifting", "job"]

EVERYTHING = [
    {"watch": "error", "action": ["consolidate", "raise_rate", "enlarge_replay"], "rate": 2.0, "lasting": 3},
    {"watch": "features", "action": ["flush_replay", "rewarm"]},
]


def drifting(rows: int, planted: tuple[int, ...] = ()) -> pa.Table:
    """A line between two classes, which turns round at each planted drift, where its features shift too."""
    draw = np.random.default_rng(1)
    x = draw.normal(size=(rows, 2))
    concept = np.searchsorted(planted, np.arange(rows), side="right")
    score = x[:, 0] * np.where(concept % 2, -1.0, 1.0) + 0.3 * x[:, 1]
    late = score + 0.5 * draw.normal(size=rows) > 0
    return pa.table({"x": x[:, 0], "z": x[:, 1] + 1.5 * (concept % 2), "late": late.astype(np.int64)})


def job(path: Path, *settings: str, every: int = 250, **sections: Any) -> Job:
    document: dict[str, Any] = {
        "name": "drifting",
        "stream": {"path": str(path), "every": every},
        "features": {"label": "late", "numeric": ["x", "z"], "classes": [0, 1]},
        "model": {"hidden": [8]},
        "learner": {"objective": "binary", "batch_size": 50, "optimizer": {"name": "adam", "lr": 0.01}},
        "publish": {"every": 10},
    }
    return Job.from_document(document | sections, settings)
