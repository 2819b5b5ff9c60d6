"""Run a job on an engine of either kind, and look at what it left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cluster.engine import ClusterEngine
from incr_core.data import row_ids
from incr_core.engines import Engine, LocalEngine
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.registry import RunDirectory
from incr_core.rounds import Arrival, Round
from incr_core.storage import model_sha256


class Learned:
    """What a run came to: the weights, and what its increments told."""

    def __init__(self, kind: type[Engine], job: Job, out: Path) -> None:
        engine = kind(job, out)
        self.arrivals: list[list[Arrival]] = []
        self.rounds: list[Round] = []
        try:
            engine.start(None)
            while arrivals := engine.receive():
                self.arrivals.append(arrivals)
                self.rounds.append(engine.learn(arrivals))
            self.weights = {name: value.clone() for name, value in engine.weights().items()}
        finally:
            engine.close()

    @property
    def sha256(self) -> str:
        return model_sha256(self.weights)


def learned_locally(job: Job, out: Path) -> Learned:
    return Learned(LocalEngine, job, out)


def learned_on_cluster(job: Job, out: Path) -> Learned:
    return Learned(ClusterEngine, job, out)


def farthest(one: Learned, other: Learned) -> float:
    """The largest difference between two runs' weights."""
    assert one.weights.keys() == other.weights.keys()
    gaps = [(value.double() - other.weights[name].double()).abs() for name, value in one.weights.items()]
    return max(float(gap.max()) for gap in gaps if gap.numel())


def run(job: Job, out: Path, increments: int | None = None) -> str:
    """Run a job on the cluster, committing as it says, up to so many increments; returns the model's hash."""
    with RunDirectory.create(out, job.toml(), f"cluster:{job.fingerprint()}") as directory:
        engine = Limited(job, out, increments)
        try:
            Loop(job, engine, directory).run()
            return model_sha256(engine.weights())
        finally:
            engine.close()


class Limited(ClusterEngine):
    """A cluster engine whose stream seems to end early."""

    def __init__(self, job: Job, directory: Path, increments: int | None) -> None:
        super().__init__(job, directory)
        self.left = increments

    def receive(self) -> list[Arrival]:
        if self.left == 0:
            return []
        self.left = None if self.left is None else self.left - 1
        return super().receive()


def rows_learned(out: Path) -> list[int]:
    """The offsets of all rows in the ledger of a run over one file, sorted, as often as they occur."""
    table = RunDirectory.open(out).table("ledger")
    return sorted(
        row for pairs in table["ranges"].to_pylist() for pair in pairs for row in range(pair["start"], pair["stop"])
    )


def all_rows(arrivals: Sequence[Sequence[Arrival]]) -> Tensor:
    """The ids of all rows that arrived to be learned, sorted."""
    return torch.cat([arrival.rows for tick in arrivals for arrival in tick]).sort().values


def first_rows(count: int) -> Tensor:
    return row_ids(0, 0, count)
