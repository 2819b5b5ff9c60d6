"""Days with one concept, of which some are poisoned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from incr_core.job import Job

__all__ = [
    "BY_DAY",
    "DAY",
    "POISONED",
    "TIMED",
    "Table",
    "flipped",
    "frozen",
    "in_another_unit",
    "job",
    "stream",
    "timed",
]

DAY, POISONED = 300, 20
"""Rows of a day, and the first one that is poisoned."""

Table = dict[str, npt.NDArray[Any]]


def flipped(day: Table) -> None:
    day["late"][:] = 1 - day["late"]


def in_another_unit(day: Table) -> None:
    day["x3"][:] *= 1000


def frozen(day: Table) -> None:
    day["x0"][:] = 2.0


def stream(poison: Callable[[Table], None], last: int, count: int) -> list[Table]:
    """So many days with one concept, of which those from POISONED up to `last` are poisoned."""
    draw, days = np.random.default_rng(0), list[Table]()
    for day in range(count):
        x = draw.normal(size=(DAY, 4))
        late = x @ np.array([1.0, -1.0, 0.5, 1.0]) + 0.6 * draw.logistic(size=DAY) > 0
        days.append({**{f"x{column}": x[:, column] for column in range(4)}, "late": late.astype(np.int64)})
        if POISONED <= day < last:
            poison(days[-1])
    return days


def timed(days: list[Table]) -> list[Table]:
    """The same days with times, of which each ends before its labels could be known on the next."""
    at = np.arange(DAY) * 60
    return [
        {**day, "at": 86_400 * (number + 15_000) + at, "known": 86_400 * (number + 15_000) + at + 1800}
        for number, day in enumerate(days)
    ]


TIMED: dict[str, Any] = {
    "predict_at": "at",
    "label_at": "known",
    "every": "1d",
    "rate": [{"by": [[]], "window": "3d"}, {"by": [[]], "window": "3d", "outcome": "x0", "known_at": "known"}],
}
"""Of open_run: how to read them, with rates of their labels and of a column."""


BY_DAY = [
    "stream.order=time",
    *(f"stream.{key}={TIMED[key]}" for key in ("predict_at", "label_at", "every")),
    'features.rate=[{by=[[]], window="3d"}, {by=[[]], window="3d", outcome="x0", known_at="known"}]',
]
"""The same as settings of a job."""


def job(folder: Path, days: list[Table], *settings: str) -> Job:
    """A job over these days, a file each, with a gate."""
    folder.mkdir(exist_ok=True)
    for number, day in enumerate(days):
        pq.write_table(pa.table(day), folder / f"{number:03}.parquet")
    document: dict[str, Any] = {
        "name": "poisoned",
        "stream": {"path": str(folder), "order": "file"},
        "features": {"label": "late", "numeric": ["x0", "x1", "x2", "x3"], "classes": [0, 1]},
        "learner": {"objective": "binary"},
        "publish": {"gate": True},
    }
    return Job.from_document(document, settings)
