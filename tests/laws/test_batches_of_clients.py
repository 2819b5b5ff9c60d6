"""Law 12: clients learned as one batch equal clients learned one by one, to rounding; and on any number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from incr_core.job import Job
from incr_core.learner import Learner, OptimizerFactory
from incr_core.objectives import Multiclass
from incr_core.strategies import L2SP, FedProx, Strategy
from tests.support.federated_runs import finish, people
from tests.support.stacked import learned_alike

pytest.importorskip("flwr.app")

from tests.support.in_process_grid import InProcessGrid, on

pytestmark = pytest.mark.flower

OPTIMIZERS: dict[str, OptimizerFactory] = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "nesterov": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "dampened": partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5),
    "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.1, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
}
STRATEGIES: dict[str, list[Strategy]] = {"none": [], "fedprox": [FedProx(0.5)], "l2sp": [L2SP(0.5)]}


def learner(seed: int, optimizer: str, strategy: str, clip: float | None) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    strategies = [type(each)(each.strength) for each in STRATEGIES[strategy]]
    return Learner(
        model, Multiclass(3), OPTIMIZERS[optimizer], strategies, batch_size=4, seed=seed, clip=clip, epochs=2
    )


@pytest.mark.parametrize(
    ("optimizer", "strategy", "clip", "weighted"),
    [
        ("sgd", "none", None, False),
        ("nesterov", "fedprox", 0.3, True),
        ("dampened", "l2sp", None, False),
        ("adam", "fedprox", None, False),
        ("adam", "none", None, True),
        ("adamw", "l2sp", 0.3, False),
    ],
)
def test_learners_stacked_are_learners_alone(optimizer: str, strategy: str, clip: float | None, weighted: bool) -> None:
    alone, stacked = ([learner(seed, optimizer, strategy, clip) for seed in range(4)] for _ in range(2))
    learned_alike(alone, stacked, weighted=weighted)
    for one, other in zip(stacked, alone, strict=True):
        assert torch.equal(one.steps.state_dict()["generator"], other.steps.state_dict()["generator"])


PLAIN = ("strategy=[]", "model.dropout=0", "learner.optimizer={name='sgd', lr=0.1, momentum=0.9}")


def of_clients(table: Path, *settings: str) -> Job:
    """Seven clients of unequal sizes, the last of whom has none of the first rows."""
    return people(table, "federated.clients=hash:at:7", "federated.rounds=2", *PLAIN, *settings)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    path = max((folder / "versions").glob("*/model.safetensors"), key=lambda path: int(path.parent.name))
    return dict(load_file(path))


@pytest.mark.parametrize("strategy", ["[]", '[{name="fedprox", strength=0.1}]'])
def test_a_run_of_batches_is_a_run_of_clients_one_by_one(table: Path, tmp_path: Path, strategy: str) -> None:
    jobs = [of_clients(table, f"strategy={strategy}", f"federated.batch_clients={size}") for size in (0, 3)]
    alone, batched = (finish(job, tmp_path / str(place), on(InProcessGrid(7))) for place, job in enumerate(jobs))
    assert batched.learned == alone.learned == list(range(2000))
    assert batched.score == pytest.approx(alone.score, abs=1e-3)
    assert "one by one" not in told(tmp_path / "1")
    for name, value in weights_of(tmp_path / "0").items():
        torch.testing.assert_close(weights_of(tmp_path / "1")[name], value, rtol=1e-3, atol=1e-4)


def told(folder: Path) -> list[str]:
    return list(pq.read_table(folder / "events")["kind"].to_pylist()) if (folder / "events").exists() else []


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_the_hash_is_the_same_for_any_number_of_workers(table: Path, tmp_path: Path, fraction: float) -> None:
    job = of_clients(table, "federated.batch_clients=2", f"federated.fraction={fraction}")
    results = [finish(job, tmp_path / str(count), on(InProcessGrid(7, workers=count))) for count in (1, 2, 3)]
    assert results[0] == results[1] == results[2]


def test_a_run_of_batches_is_resumed_bit_for_bit(table: Path, tmp_path: Path) -> None:
    job = of_clients(table, "federated.batch_clients=3", "learner.optimizer={name='adam', lr=0.01}")
    whole = finish(job, tmp_path / "whole", on(InProcessGrid(7)))
    for stop in (2, 5):
        finish(job, tmp_path / "parts", on(InProcessGrid(7)), stop_after=stop)
    assert finish(job, tmp_path / "parts", on(InProcessGrid(7, workers=2))) == whole


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["model.dropout=0.1"], "the model draws random numbers while it learns (Dropout)"),
        (['strategy=[{name="replay", capacity=100}]'], "strategy Replay keeps what differs between clients"),
        (["learner.optimizer.name=rmsprop", "learner.optimizer.momentum=0"], "learner.optimizer: RMSprop"),
    ],
)
def test_what_cannot_be_batched_is_learned_one_by_one_and_told_once(
    table: Path, tmp_path: Path, settings: Sequence[str], why: str
) -> None:
    alone = finish(of_clients(table, *settings), tmp_path / "alone", on(InProcessGrid(7)))
    job = of_clients(table, *settings, "federated.batch_clients=3")
    assert finish(job, tmp_path / "batched", on(InProcessGrid(7))).sha256 == alone.sha256
    events = pq.read_table(tmp_path / "batched/events").to_pylist()
    found = [event for event in events if event["kind"] == "one by one"]
    assert len(found) == 1
    assert why in found[0]["what"]
