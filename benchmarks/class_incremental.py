"""Class-incremental learning over clients: replay beside fine-tuning, on the digits of scikit-learn.

    python -m benchmarks.class_incremental                three seeds

Five increments bring two classes each. Ten clients have shares of each class by Dir(0.5). Every client learns with the
classes of the increment alone; the final version is measured on test rows of all ten classes. A memory stays with its
client: no row travels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

import incr_core
from incr_core.job import Job
from incr_core.runs import Version

TASKS, CLASSES, CLIENTS = 5, 10, 10

ARMS: dict[str, list[dict[str, Any]]] = {
    "fine-tuning": [],
    "replay": [{"name": "replay", "capacity": 100, "ratio": 1.0}],
}
"""The strategies of each arm; a capacity is that of one client, in rows."""


def prepare(folder: Path, seed: int) -> None:
    """Write a file of training rows for each task, and `test.parquet`: a fifth of the rows, of all classes."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    test, train = np.split(order, [len(order) // 5])
    (folder / "tasks").mkdir(parents=True)
    for task in range(TASKS):
        mine = train[labels[train] // (CLASSES // TASKS) == task]
        pq.write_table(_table(pixels[mine], labels[mine]), folder / "tasks" / f"{task}.parquet")
    pq.write_table(_table(pixels[test], labels[test]), folder / "test.parquet")


def _table(pixels: Any, labels: Any) -> pa.Table:
    flat = pa.array((pixels / 16).astype(np.float32).ravel())
    return pa.table({"pixels": pa.FixedSizeListArray.from_arrays(flat, 64), "label": labels})


def job_of(folder: Path, arm: str, seed: int) -> Job:
    """The job of an arm on prepared rows."""
    return Job.from_document(
        {
            "name": f"class-incremental-{arm}",
            "stream": {"path": str(folder / "tasks"), "order": "file", "every": "file", "settle": "0s"},
            "features": {
                "label": "label",
                "numeric": ["pixels"],
                "classes": list(range(CLASSES)),
                "widths": {"pixels": 64},
            },
            "model": {"hidden": [100]},
            "learner": {
                "objective": "multiclass",
                "optimizer": {"name": "sgd", "lr": 0.1},
                "batch_size": 16,
                "epochs": 2,
                "seed": seed,
            },
            "strategy": ARMS[arm],
            "federated": {"clients": f"dirichlet:{CLIENTS}:0.5", "rounds": 20},
        }
    )


def accuracy(out: Path, folder: Path) -> float:
    """The accuracy of a run's version on the test rows, in percent."""
    measured: float = Version.load(out).evaluate(folder / "test.parquet")["accuracy"]
    return 100.0 * measured


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all arms, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            place = Path(folder) / str(seed)
            prepare(place, seed)
            for arm in ARMS:
                incr_core.run(job_of(place, arm, seed), place / arm, on="federated")
                found[arm].append(accuracy(place / arm, place))
    for arm, values in found.items():
        rounded = [round(value, 1) for value in values]
        print(json.dumps({"arm": arm, "mean": round(statistics.mean(values), 1), "seeds": rounded}), flush=True)


if __name__ == "__main__":
    main()
