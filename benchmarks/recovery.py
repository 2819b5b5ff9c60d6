"""Time from SIGKILL of a worker to the next increment learned, with a spare and without, and a check of the rows.

    python -m benchmarks.recovery

Two replicas of one thread each learn increments of 500 rows. Every few increments one replica's process is killed at an
arbitrary moment, with a spare only after the spare has started. The time is measured from the kill to the end of the
next increment that is learned. At the end each row must be in exactly one version, and the model must equal that of a
run without kills.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.engine import ClusterEngine
from incr_core.job import Job
from incr_core.loop import Loop, Progress
from incr_core.registry import RunDirectory
from incr_core.storage import model_sha256

RESULTS = Path(__file__).parent / "results" / "recovery.json"
ROWS, EVERY = 500_000, 500
APART = 20
"""Increments between one kill and the next."""


def job(folder: Path, spares: int) -> Job:
    """A job over random rows."""
    path = folder / "rows.parquet"
    if not path.exists():
        draw = np.random.default_rng(0)
        columns = {f"x{column}": draw.normal(size=ROWS) for column in range(8)}
        label = (columns["x0"] + columns["x1"] > 0).astype(np.int64)
        pq.write_table(pa.table({**columns, "y": label}), path, row_group_size=20_000)
    return Job.from_document(
        {
            "name": "recovery",
            "stream": {"path": str(path), "every": EVERY},
            "features": {"label": "y", "numeric": [f"x{column}" for column in range(8)], "classes": [0, 1]},
            "model": {"hidden": [64]},
            "learner": {"objective": "binary"},
            "strategy": [{"name": "replay", "capacity": 1000}],
            "cluster": {"replicas": 2, "spares": spares},
        }
    ).resolved()


class Killer:
    """Kill one replica after the other, a moment after an increment, and take the time until the next is learned."""

    def __init__(self, engine: ClusterEngine, kills: int) -> None:
        self.engine, self.left, self.spares = engine, kills, engine.job.cluster.spares
        self.seconds: list[float] = []
        self._killed: float | None = None
        self._increments = 0

    def __call__(self, progress: Progress) -> None:
        """An increment was learned."""
        self._increments += 1
        if self._killed is not None:
            self.seconds.append(time.perf_counter() - self._killed)
            self._killed = None
        elif self.left and self._increments % APART == 0 and self.engine.spares == self.spares:
            self.left -= 1
            victim = self.engine.processes[self.left % 2]
            threading.Timer(0.002 * self.left, self._kill, [victim]).start()

    def _kill(self, victim: int) -> None:
        self._killed = time.perf_counter()
        os.kill(victim, signal.SIGKILL)


def run(folder: Path, spares: int, kills: int) -> dict[str, Any]:
    """One run; the seconds of each recovery, the rows learned, those learned twice, and the model."""
    made = job(folder, spares)
    out = folder / f"run-{spares}-{kills}"
    with RunDirectory.create(out, made.toml(), made.fingerprint()) as directory:
        engine = ClusterEngine(made, out)
        killer = Killer(engine, kills)
        try:
            Loop(made, engine, directory, killer).run()
            sha = model_sha256(engine.weights())
        finally:
            engine.close()
        ledger = directory.table("ledger")
    starts = [range(pair["start"], pair["stop"]) for pairs in ledger["ranges"].to_pylist() for pair in pairs]
    learned = [row for part in starts for row in part]
    return {
        "seconds": killer.seconds,
        "rows_lost": ROWS - len(set(learned)),
        "rows_twice": len(learned) - len(set(learned)),
        "model": sha,
    }


def main() -> None:
    """Print the table, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=8)
    kills = parser.parse_args().kills
    results = []
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = run(Path(folder), 0, 0)["model"]
        for spares in (1, 0):
            found = run(Path(folder), spares, kills)
            seconds = sorted(found["seconds"])
            results.append(
                {
                    "spares": spares,
                    "kills": len(seconds),
                    "median_seconds": round(statistics.median(seconds), 2),
                    "largest_seconds": round(seconds[-1], 2),
                    "rows_lost": found["rows_lost"],
                    "rows_twice": found["rows_twice"],
                    "same_model": found["model"] == undisturbed,
                }
            )
            print(results[-1], flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
