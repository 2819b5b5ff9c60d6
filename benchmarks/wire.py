"""Bytes that two replicas exchange for a row, beside DDP's, and what that costs of accuracy, over five seeds.

    python -m benchmarks.wire

DDP sends a gradient of all weights at every step. Its arm is one process with `accumulate = 2`, which takes the same
steps on the same rows (law 2), and its bytes are those of an all_reduce between two: each sends as many as the weights
have. Ours exchanges weights every `H` steps, with `cluster.wire = "int8"`; its bytes are those that were counted.
Accuracy is of predictions before a row is learned, over all increments.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.replica_task import RATE, WIDTH, drawn, network
from cluster.session import Session
from incr_core import run
from incr_core.job import Job
from incr_core.registry import RunDirectory

RESULTS = Path(__file__).parent / "results" / "wire.json"
ROOT = Path(__file__).parent.parent
H, BATCH, INCREMENTS, HIDDEN = 256, 32, 6, 256
EVERY = 2 * H * BATCH
"""Rows of an increment, which ends with an exchange anyway."""

TARGET = 500
"""Times fewer bytes a row than DDP's, at least."""


def job_of(path: Path, seed: int) -> Job:
    """The task of `replica_task`, in increments of one exchange."""
    document = {
        "name": "wire",
        "root": str(ROOT),
        "stream": {"path": str(path), "every": EVERY},
        "features": {"label": "label", "numeric": ["x"], "classes": list(range(10))},
        "model": {"factory": "benchmarks.replica_task:network", "arguments": {"hidden": HIDDEN}},
        "learner": {
            "objective": "multiclass",
            "batch_size": BATCH,
            "accumulate": 2,
            "optimizer": {"name": "sgd", "lr": RATE},
            "seed": seed,
        },
        "cluster": {"replicas": 2, "average_every": H, "wire": "int8"},
    }
    return Job.from_document(document).resolved()


def written(folder: Path, seed: int) -> Path:
    """Rows of that seed."""
    path = folder / f"{seed}.parquet"
    x, y = drawn(EVERY * INCREMENTS, seed)
    columns = {"x": pa.FixedSizeListArray.from_arrays(pa.array(x.flatten().numpy()), WIDTH), "label": y.numpy()}
    pq.write_table(pa.table(columns), path)
    return path


def learned(job: Job, engine: str, out: Path) -> tuple[float, float]:
    """The accuracy of a run, and the bytes that its workers have sent for a row."""
    accuracy = run(job, out, on=engine).summary.prequential["accuracy"]
    sent = sum(RunDirectory.open(out).table("metrics")["bytes_exchanged"].to_pylist())
    return accuracy, sent / (EVERY * INCREMENTS)


def main() -> None:
    """Print what was found, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    model = sum(value.nbytes for value in network(HIDDEN).state_dict().values())
    found: dict[str, list[float]] = {"DDP": [], "ours": []}
    session, sent = Session("local", slots=2), 0.0
    try:
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(seeds):
                job = job_of(written(Path(folder), seed), seed)
                found["DDP"].append(learned(job, "local", Path(folder, f"ddp-{seed}"))[0])
                ours = job.with_settings(["learner.accumulate=1"])
                accuracy, sent = learned(ours, "cluster", Path(folder, f"ours-{seed}"))
                found["ours"].append(accuracy)
                print({name: values[-1] for name, values in found.items()}, flush=True)
    finally:
        session.close()
    ddp = 2 * model / (2 * BATCH)
    document: dict[str, Any] = {
        "accuracy": {name: [round(value, 4) for value in values] for name, values in found.items()},
        "mean": {name: round(statistics.mean(values), 4) for name, values in found.items()},
        "deviation": {name: round(statistics.stdev(values), 4) for name, values in found.items()},
        "bytes_a_row": {"DDP": round(ddp, 1), "ours": round(sent, 2)},
        "times_fewer": round(ddp / sent, 1),
        "target": TARGET,
        "torch": torch.__version__,
    }
    print(json.dumps(document, indent=1))
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
