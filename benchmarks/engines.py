"""Whether a strategy forgets more where the stream is split: one process, four replicas, four clients.

    python -m benchmarks.engines                                    every run not made yet, and the table
    python -m benchmarks.engines --validate --seeds 100             on rows held out of training; not kept

Protocol A of `benchmarks.forgetting` with its best strategy, 200 slots of memory in all, run by the engines themselves:
rows come from Parquet files, `EVERY` to an increment, and no strategy is told of a boundary. One process takes batches
of 10 rows. Of four participants each takes every fourth block of 5 rows, remembers a quarter of the slots, and shares
neither rows nor means of rows: only weights, which replicas average every `AVERAGE_EVERY` steps and clients once an
increment. Batches of 5, tried beside 10, were chosen on rows held out; the learning rate is that of the one process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from benchmarks.fashion_mnist import fashion_mnist
from benchmarks.forgetting import Budget, network
from benchmarks.scores import Scores, spread
from incr_core.batch import Batch
from incr_core.engines import Engine, engine_named
from incr_core.job import Job
from incr_core.testing import class_incremental

RESULTS = Path(__file__).parent / "results" / "engines.json"
ROOT = Path(__file__).parent.parent
EVERY, AVERAGE_EVERY = 400, 5
BEST: list[dict[str, Any]] = [
    {"name": "ace", "margin": 3.0},
    {"name": "der", "logits": 0.5, "labels": 1.0, "ratio": 3.0, "memory": "prototypes"},
]


@dataclass(frozen=True)
class Arm:
    """Where learners live, rows of a batch, slots of each one's memory, and what else the job says."""

    engine: str
    batch: int
    slots: int
    settings: Sequence[str] = ()


ARMS = {
    "one process": Arm("local", 10, 200),
    "4 replicas": Arm("cluster", 5, 50, ["cluster.replicas=4", f"cluster.average_every={AVERAGE_EVERY}"]),
    "4 clients": Arm("federated", 5, 50, ["federated.clients='blocks:4'"]),
}


class Pixels(nn.Module):
    """The network of Protocol A, on bytes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.layers = network(Budget(), seed)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, (B, 10)."""
        output: Tensor = self.layers(inputs / 255.0)
        return output


def write(rows: Batch, folder: Path, seed: int) -> None:
    """A Parquet file for each pair of classes, its rows shuffled."""
    generator = torch.Generator().manual_seed(seed)
    for part in class_incremental(rows, 2):
        assert isinstance(part.inputs, Tensor)
        assert part.task is not None
        order = torch.randperm(len(part), generator=generator)
        pixels = (part.inputs[order] * 255).round().to(torch.uint8).flatten().numpy()
        columns = {
            "pixels": pa.FixedSizeListArray.from_arrays(pa.array(pixels), 784),
            "label": part.targets[order].numpy(),
        }
        table = pa.table(columns)
        pq.write_table(table, folder / f"{int(part.task[0])}.parquet")


def job_for(arm: Arm, seed: int, folder: Path) -> Job:
    """The job of an arm."""
    document = {
        "name": "forgetting",
        "root": str(ROOT),
        "stream": {"path": str(folder), "every": EVERY, "order": "file"},
        "features": {"label": "label", "numeric": ["pixels"], "classes": list(range(10))},
        "model": {"factory": "benchmarks.engines:Pixels", "arguments": {"seed": seed}},
        "learner": {
            "objective": "multiclass",
            "batch_size": arm.batch,
            "optimizer": {"name": "sgd", "lr": 0.05},
            "seed": seed,
        },
        "strategy": [BEST[0], {**BEST[1], "capacity": arm.slots}],
    }
    return Job.from_document(document, arm.settings)


def learn(arm: Arm, seed: int, train: Batch, test: Sequence[Batch]) -> dict[str, float]:
    """Class-incremental accuracy in per cent after the stream's end, and seconds."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "rows")
        folder.mkdir()
        write(train, folder, seed)
        job = job_for(arm, seed, folder)
        begun = time.perf_counter()
        engine: Engine = engine_named(arm.engine)(job, Path(place, "run"))
        try:
            engine.start(None)
            while arrivals := engine.receive():
                engine.learn(arrivals)
            weights = {name.removeprefix("model."): value.clone() for name, value in engine.weights().items()}
        finally:
            engine.close()
        seconds = time.perf_counter() - begun
    model = Pixels(seed)
    model.load_state_dict(weights)
    right = []
    for part in test:
        assert isinstance(part.inputs, Tensor)
        with torch.no_grad():
            right.append(float((model(part.inputs * 255).argmax(1) == part.targets).double().mean()))
    return {"class_il": 100 * sum(right) / len(right), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--validate", action="store_true", help="score on training rows held out; keep nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    train, test = fashion_mnist()
    if arguments.validate:
        train, test = train.slice(0, 50_000), train.slice(50_000, 60_000)
    kept = None if arguments.validate else Scores(arguments.out, {})
    print(f"{'learners':<28}{'class-IL':>16}{'s':>8}")
    for name in arguments.arms:
        scores = []
        for seed in arguments.seeds:
            run = {"arm": name, "seed": seed, "settings": f"{ARMS[name]}, {BEST}, {EVERY=}"}
            found = kept.find(run) if kept else None
            if found is None:
                found = learn(ARMS[name], seed, train, class_incremental(test, 2))
                if kept:
                    kept.add(run, found)
            scores.append(found)
        mean, deviation = spread([score["class_il"] for score in scores])
        seconds = sum(score["seconds"] for score in scores) / len(scores)
        print(f"{name:<28}{mean:>8.2f} +-{deviation:5.2f}{seconds:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
