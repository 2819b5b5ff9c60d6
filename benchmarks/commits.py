"""Pause of learning for a commit of shards, and the time until the commit is on disk.

    python -m benchmarks.commits

One replica of two shards, one thread each, learns a model of 25 million parameters with Adam, and commits after every
increment. The pause is the loop's wait between two increments: for the check that weights are finite, for each shard's
copy of its state, and for the previous commit if it has not ended. The write is the time from the beginning of a commit
until its version exists. For comparison, the same run commits once, at its end. The difference is the cost of commits
when learning and writing share the cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.engine import ClusterEngine
from incr_core.engines import Saving
from incr_core.job import Job
from incr_core.loop import Loop, Progress
from incr_core.registry import RunDirectory

RESULTS = Path(__file__).parent / "results" / "commits.json"
EVERY = 256


def job(folder: Path, increments: int, every: int, wide: int) -> Job:
    """A job over random rows, which commits after so many increments."""
    path = folder / "rows.parquet"
    if not path.exists():
        draw = np.random.default_rng(0)
        columns = {f"x{column}": draw.normal(size=increments * EVERY) for column in range(8)}
        label = (columns["x0"] + columns["x1"] > 0).astype(np.int64)
        pq.write_table(pa.table({**columns, "y": label}), path)
    return Job.from_document(
        {
            "name": "commits",
            "stream": {"path": str(path), "every": EVERY},
            "features": {"label": "y", "numeric": [f"x{column}" for column in range(8)], "classes": [0, 1]},
            "model": {"hidden": [wide, wide]},
            "learner": {"objective": "binary", "batch_size": 64},
            "cluster": {"replicas": 1, "shards": 2},
            "publish": {"every": every, "keep": 2},
        }
    ).resolved()


class Paused(Loop):
    """A loop that takes the time of its commits."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pauses: list[float] = []
        self._commit = self.learning.commit
        self.learning.commit = self._paused  # type: ignore[method-assign]

    def _paused(self) -> Saving | None:
        """Take the time of a pause."""
        begun = time.perf_counter()
        self.engine.not_finite()  # as the loop has asked just before
        saving = self._commit()
        self.pauses.append(time.perf_counter() - begun)
        return saving


class Times:
    """When increments were learned."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self, progress: Progress) -> None:
        """An increment was learned."""
        self.at.append(time.perf_counter())


def run(folder: Path, increments: int, every: int, wide: int) -> dict[str, Any]:
    """One run: seconds of pauses, of writes, and from one increment to the next."""
    made, out = job(folder, increments, every, wide), folder / f"run-{every}"
    times = Times()
    with RunDirectory.create(out, made.toml(), made.fingerprint(), keep=2) as directory:
        engine = ClusterEngine(made, out)
        began: dict[int, float] = {}
        written: dict[int, float] = {}
        inner = directory.commit

        def commit(*arguments: Any, **options: Any) -> int:
            version = inner(*arguments, **options)
            written[version] = time.perf_counter()
            return version

        directory.commit = commit  # type: ignore[method-assign]
        save = engine.save

        def saved(version: int) -> Saving:
            began[version] = time.perf_counter()
            return save(version)

        engine.save = saved  # type: ignore[method-assign]
        loop = Paused(made, engine, directory, times)
        try:
            loop.run()
        finally:
            engine.close()
    return {
        "pauses": loop.pauses,
        "writes": [written[version] - began[version] for version in sorted(began)],
        "increments": [later - earlier for earlier, later in zip(times.at, times.at[1:], strict=False)],
    }


def main() -> None:
    """Print what was found, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--increments", type=int, default=8)
    parser.add_argument("--wide", type=int, default=5000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        each = run(Path(folder), given.increments, 1, given.wide)
        once = run(Path(folder), given.increments, 1000, given.wide)
    # The first commit asks the system for memory, and the last waits to be over.
    pause, write = (statistics.median(each[key][1:-1]) for key in ("pauses", "writes"))
    found = {
        "parameters": given.wide * (given.wide + 11) + 1,
        "pause_seconds": round(pause, 4),
        "write_seconds": round(write, 3),
        "pause_of_write": round(pause / write, 4),
        "increment_seconds": round(statistics.median(each["increments"][1:]), 3),
        "increment_seconds_without_commits": round(statistics.median(once["increments"][1:]), 3),
        "pauses": [round(value, 4) for value in each["pauses"]],
        "writes": [round(value, 3) for value in each["writes"]],
    }
    print(json.dumps(found, indent=1), flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
