"""Bytes and accuracy of compressed federated updates, over several seeds.

    python -m benchmarks.federated_wire                 all arms, three seeds; the table is kept
    python -m benchmarks.federated_wire --seeds 1 --out /tmp/wire.json

Ten clients hold the digits of scikit-learn (1,437 rows of 64 numbers, labels dealt by Dir(0.5)) and learn them in three
increments of ten rounds. The accuracy is that of the last version on 360 other rows. Bytes are counted by the
server: those of a client's weights in a round, and all of the run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits
from sklearn.utils import shuffle

from cluster.session import Session
from federated.engine import FederatedEngine
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.numerics import coding_of
from incr_core.registry import RunDirectory
from incr_core.runs import Run

RESULTS = Path(__file__).parent / "results" / "federated_wire.json"
CLIENTS, ROUNDS, TRAIN, EVERY = 10, 10, 1437, 479
HIDDEN = (200, 200)

ARMS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float16": {"wire": "float16"},
    "int8": {"wire": "int8"},
    "int8, no feedback": {"wire": "int8", "error_feedback": False},
    "top 1%": {"top_k": 0.01},
    "top 1%, no feedback": {"top_k": 0.01, "error_feedback": False},
    "top 1%, int8": {"top_k": 0.01, "wire": "int8"},
    "top 5%, int8": {"top_k": 0.05, "wire": "int8"},
}


def job_of(path: Path, seed: int, settings: dict[str, Any]) -> Job:
    """The job of an arm."""
    document = {
        "name": "digits",
        "stream": {"path": str(path), "every": EVERY},
        "features": {"label": "digit", "numeric": ["pixels"], "classes": list(range(10))},
        "model": {"hidden": list(HIDDEN)},
        "learner": {
            "objective": "multiclass",
            "batch_size": 16,
            "epochs": 2,
            "optimizer": {"name": "sgd", "lr": 0.1},
            "seed": seed,
        },
        "federated": {"clients": f"dirichlet:{CLIENTS}:0.5", "rounds": ROUNDS, **settings},
    }
    return Job.from_document(document).resolved()


def written(folder: Path, seed: int) -> tuple[Path, Path]:
    """The rows to learn, and the others, in an order drawn from the seed."""
    x, y = shuffle(*load_digits(return_X_y=True), random_state=seed)
    pixels = pa.FixedSizeListArray.from_arrays(pa.array((x / 16).astype("float32").ravel()), 64)
    table = pa.table({"pixels": pixels, "digit": y})
    paths = folder / f"{seed}.parquet", folder / f"{seed}-test.parquet"
    pq.write_table(table.slice(0, TRAIN), paths[0])
    pq.write_table(table.slice(TRAIN), paths[1])
    return paths


def learned(folder: Path, seed: int, arm: str) -> dict[str, float]:
    """Accuracy and bytes of one run."""
    train, test = written(folder, seed)
    job, out = job_of(train, seed, ARMS[arm]), folder / f"{arm} {seed}"
    with RunDirectory.create(out, job.toml(), job.fingerprint()) as directory:
        engine = FederatedEngine(job, out)
        try:
            Loop(job, engine, directory).run()
            numbers = sum(value.numel() for name, value in engine.weights().items() if name.startswith("model.layers"))
        finally:
            engine.close()
    rows = RunDirectory.open(out).table("metrics").to_pylist()
    predicted = Run(out).champion.predict(test)
    truth = pq.read_table(test)["digit"].to_pylist()
    right = [one == other for one, other in zip(map(int, predicted["class"].to_pylist()), truth, strict=True)]
    coding = coding_of(job.federated.wire, job.federated.top_k)
    return {
        "accuracy": statistics.mean(right),
        "update": 4 * numbers if coding is None else coding.nbytes(numbers),
        "up": sum(row["bytes_up"] for row in rows),
        "down": sum(row["bytes_down"] for row in rows),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all arms in turns, and write the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--out", type=Path, default=RESULTS)
    wanted = options.parse_args(arguments)
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder, closing(Session("local", 2)):  # Ray starts once
        for seed in range(wanted.seeds):
            for arm in ARMS:
                found[arm].append(learned(Path(folder), seed, arm))
                print(seed, arm, found[arm][-1], flush=True)
    whole = statistics.mean(one["up"] for one in found["float32"])
    table: dict[str, dict[str, Any]] = {
        arm: {
            "accuracy": statistics.mean(one["accuracy"] for one in runs),
            "deviation": statistics.stdev([one["accuracy"] for one in runs]) if len(runs) > 1 else 0.0,
            "update": runs[0]["update"],
            "up": statistics.mean(one["up"] for one in runs),
            "down": statistics.mean(one["down"] for one in runs),
            "times_less": whole / statistics.mean(one["up"] for one in runs),
            "runs": [one["accuracy"] for one in runs],
        }
        for arm, runs in found.items()
    }
    wanted.out.write_text(json.dumps({"seeds": wanted.seeds, "arms": table}, indent=1) + "\n")
    for arm, row in table.items():
        accuracy = f"{row['accuracy']:.4f} ({row['deviation']:.4f})"
        print(f"| {arm} | {row['update']:,} | {row['up'] / 1e6:.1f} | {row['times_less']:.1f} | {accuracy} |")


if __name__ == "__main__":
    main()
