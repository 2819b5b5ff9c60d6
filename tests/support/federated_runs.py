"""Small jobs on the made-up table, and a way to run an engine on one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.engines import Engine
from incr_core.errors import IncrError
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.registry import RunDirectory
from incr_core.storage import model_sha256
from tests.support.made_up import made_up

MakeEngine = Callable[[Job, Path], Engine]


def people(table: Path, *settings: str) -> Job:
    """A job of eight increments of some 250 rows, with all that could go wrong: dropout, Adam, replay, a warm start."""
    document: dict[str, Any] = {
        "name": "people",
        "stream": {"path": str(table), "every": 250, "warm_start": 300},
        "features": {
            "label": "tall",
            "numeric": ["height", "weight"],
            "categorical": ["colour"],
            "classes": [0, 1],
            "buckets": 32,
        },
        "model": {"hidden": [16], "embedding": 4, "dropout": 0.1},
        "learner": {
            "objective": "binary",
            "batch_size": 32,
            "warm_epochs": 2,
            "optimizer": {"name": "adam", "lr": 0.01},
        },
        "strategy": [{"name": "replay", "capacity": 100, "ratio": 1.0}],
        "federated": {"clients": "colour"},
        "publish": {"every": 2},
    }
    return Job.from_document(document, settings)


@dataclass
class Result:
    """What a run came to."""

    sha256: str
    learned: list[int]
    score: float
    bytes_exchanged: int
    increments: int


def finish(job: Job, folder: Path, make: MakeEngine, stop_after: int | None = None) -> Result:
    """Run the job's stream from the last commit in `folder` to its end, or for some increments."""
    with RunDirectory.create(folder, job.toml(), job.fingerprint()) as directory:
        engine = make(job, folder)
        loop = Loop(job, engine, directory)
        if stop_after is not None:
            loop.on_progress = lambda progress: loop._stop.set() if loop.totals.increments >= stop_after else None
        try:
            loop.run()
            sha256 = model_sha256(engine.weights())
        finally:
            engine.close()
    totals = loop.totals
    score = loop.objective.metrics(totals.statistics)[loop.objective.main_metric]
    return Result(sha256, learned_rows(folder), score, totals.bytes_exchanged, totals.increments)


def failing(job: Job, folder: Path, make: MakeEngine) -> IncrError:
    """What a run ends in."""
    with pytest.raises(IncrError) as caught:
        finish(job, folder, make)
    return caught.value


def learned_rows(folder: Path) -> list[int]:
    """Every row that the ledger says was learned, in any version, with repeats."""
    table = pq.read_table(folder / "ledger")
    rows: list[int] = []
    for entry in table.to_pylist():
        for part in entry["ranges"]:
            rows += range(part["start"], part["stop"])
    return sorted(rows)


def spoiled(folder: Path) -> Path:
    """The made-up table with text among the heights of green people."""
    table = made_up(600)
    heights = [
        "n/a" if colour == "green" and row > 400 else str(height)
        for row, (height, colour) in enumerate(
            zip(*(table[name].to_pylist() for name in ("height", "colour")), strict=True)
        )
    ]
    path = folder / "spoiled.parquet"
    pq.write_table(table.set_column(0, "height", pa.array(heights)), path)
    return path


def events(folder: Path) -> list[tuple[str, str]]:
    """What a run has told: kind, and of whom or what."""
    return [(row["kind"], row["what"]) for row in pq.read_table(folder / "events").to_pylist()]
