"""Accuracy lost with more replicas at the same learning rate, and changes that recover it.

    python -m benchmarks.scale_lr                                   every run not made yet, and the table
    python -m benchmarks.scale_lr --streams flights --replicas 2

Prequential scores of one pass over a stream. flights: January to March of `examples/flights/job.toml` (AdamW), AUC.
adam, sgd: Fashion-MNIST in one random order, increments of 2,000 rows in batches of 32, the built-in MLP of 128,
accuracy. Replicas learn one after another in this process, with the arithmetic of the cluster: the bits are the
engine's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from benchmarks.fashion_mnist import FASHION_MNIST, fashion_mnist
from benchmarks.scores import Scores, spread
from cluster._rank import Rank
from cluster._worker import partition_of
from examples.flights.prepare import main as prepare
from incr_core import metrics
from incr_core.job import Job
from incr_core.metrics import Statistics
from incr_core.numerics import settle_arithmetic
from incr_core.rounds import Outer, Pace, Participant, total_observed
from incr_core.update import Update, Weights, mean

RESULTS = Path(__file__).parent / "results" / "scale_lr.json"
FLIGHTS = Path(__file__).parent.parent / "examples" / "flights" / "job.toml"
RATES = {"flights": 3e-4, "adam": 1e-3, "sgd": 0.03}
ARMS: dict[str, list[str]] = {
    "none": [],
    "sqrt": ["cluster.scale_lr=sqrt"],
    "linear": ["cluster.scale_lr=linear"],
    "every 4 steps": ["cluster.average_every=4"],
    "every step": ["cluster.average_every=1"],
    "nesterov": ["outer={name='nesterov', lr=0.7, momentum=0.9}"],
}


def job_for(stream: str, folder: Path, settings: Sequence[str]) -> Job:
    """A job on the rows in a folder."""
    if stream == "flights":
        return Job.read(FLIGHTS, [f"stream.path={folder}", "baselines={}", *settings])
    document: dict[str, Any] = {
        "stream": {"path": str(folder), "order": "file", "every": 2000},
        "features": {"label": "label", "numeric": ["pixels"], "classes": list(range(10))},
        "model": {"hidden": [128]},
        "learner": {"objective": "multiclass", "optimizer": {"name": stream, "lr": RATES[stream]}},
    }
    return Job.from_document(document, settings).resolved()


def write(stream: str, folder: Path, data: Path) -> None:
    """The rows of a stream."""
    if stream == "flights":
        prepare(["--out", str(folder), "--until", "2013-04-01"])
        return
    rows, _ = fashion_mnist(data)
    assert isinstance(rows.inputs, Tensor)
    order = np.random.default_rng(0).permutation(len(rows))
    pixels = (rows.inputs[order] * 255).round().to(torch.uint8).flatten().numpy()
    columns = {"pixels": pa.FixedSizeListArray.from_arrays(pa.array(pixels), 784), "label": rows.targets[order].numpy()}
    pq.write_table(pa.table(columns), folder / "rows.parquet")


def learn(job: Job, replicas: int) -> float:
    """The main metric of a pass."""
    settle_arithmetic(1)
    outer, statistics = job.outer_step(), Statistics()
    places = [Rank(replica, replicas, 0, 1) for replica in range(replicas)]
    all_of_us = [job.participant(place.participant, place.replica, partition_of(job, place)) for place in places]
    for one in all_of_us:
        one.learner.descent.scaled = job.cluster.rate_of(replicas)
    while None not in (arrivals := [one.receive() for one in all_of_us]):
        found = [arrival for arrival in arrivals if arrival is not None]
        statistics = metrics.add(statistics, metrics.total(arrival.statistics for arrival in found))
        if not sum(arrival.labelled for arrival in found):
            continue
        observed = total_observed(found)
        steps = []
        for one, arrival in zip(all_of_us, found, strict=True):
            one.learner.absorb(observed)
            steps.append(one.learner.steps_in(arrival.labelled, one.passes()))
        take_rounds(all_of_us, job.cluster.interval.pace(steps, job.learner.batch_size), outer)
    objective = job.objective()
    return objective.metrics(statistics)[objective.main_metric]


@torch.no_grad()
def take_rounds(all_of_us: Sequence[Participant], pace: Pace, outer: Outer) -> None:
    """The rounds of an increment."""
    rules = all_of_us[0].learner.rules()
    for number in range(pace.rounds or 0):
        anchor = copies(all_of_us[0].learner.weights())
        updates = []
        with torch.enable_grad():
            for replica, one in enumerate(all_of_us):
                if number == 0:
                    one.begin()
                update = one.advance(pace.limit(number, replica))
                updates.append(Update(copies(update.weights), update.num_rows))
        merged = outer.step(anchor, mean(updates, anchor, rules), rules)
        for one in all_of_us:
            for name, mine in one.learner.weights().items():
                mine.copy_(merged[name])
            one.learner.adopted()


def copies(weights: Weights) -> Weights:
    return {name: value.clone() for name, value in weights.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", nargs="*", default=list(RATES), choices=list(RATES))
    parser.add_argument("--replicas", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data", type=Path, default=FASHION_MNIST, help="the folder of Fashion-MNIST's four files")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    kept = Scores(arguments.out, {})
    for stream in arguments.streams:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write(stream, folder, arguments.data)
            runs = [(1, "none"), *((replicas, arm) for replicas in arguments.replicas for arm in arguments.arms)]
            for replicas, arm in runs:
                scores = []
                for seed in arguments.seeds:
                    run = {"stream": stream, "replicas": replicas, "arm": arm, "seed": seed, "settings": str(ARMS[arm])}
                    found = kept.find(run)
                    if found is None:
                        settings = [f"cluster.replicas={replicas}", f"learner.seed={seed}", *ARMS[arm]]
                        found = {"score": learn(job_for(stream, folder, settings), replicas)}
                        kept.add(run, found)
                    scores.append(found["score"])
                middle, deviation = spread(scores)
                print(f"{stream:<10}{replicas:>3}  {arm:<15}{middle:>8.4f} +-{deviation:.4f}", flush=True)


if __name__ == "__main__":
    main()
