"""Rows that weigh so much that the loss over them is infinite, and a small job that meets them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from incr_core.job import Job

__all__ = ["EVERY", "ROWS", "job", "table", "written"]

ROWS, EVERY = 480, 40


def table(heavy: Sequence[int] = ()) -> pa.Table:
    """Rows in twelve increments; those of the increments in `heavy` weigh so much that their sum is infinite."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(ROWS, 2)).astype(np.float32)
    weight = np.ones(ROWS, dtype=np.float32)
    for increment in heavy:
        weight[increment * EVERY : (increment + 1) * EVERY] = 3e38
    late = (x.sum(1) + draw.normal(size=ROWS) > 0).astype(np.int64)
    return pa.table({"x": x[:, 0], "z": x[:, 1], "weight": weight, "late": late})


def job(path: Path, *settings: str) -> Job:
    document: dict[str, Any] = {
        "name": "heavy",
        "stream": {"path": str(path), "every": EVERY},
        "features": {"label": "late", "numeric": ["x", "z"], "weight": "weight", "classes": [0, 1]},
        "model": {"hidden": [8], "dropout": 0.1},
        "learner": {"objective": "binary", "batch_size": 8, "optimizer": {"name": "adam", "lr": 0.01}},
        "strategy": [{"name": "replay", "capacity": 60}, {"name": "ewc", "strength": 1.0}],
        "outer": {"name": "nesterov"},
    }
    return Job.from_document(document, settings)


def written(folder: Path, rows: pa.Table) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(rows, folder / "rows.parquet")
    return folder / "rows.parquet"
