"""Laws 9 and 12 for clients that keep nothing: they learn what clients one by one do, on any number of workers, and a
run that is stopped goes on to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from incr_core.data.timeline import ByOwners
from incr_core.job import Job
from tests.support.federated_runs import MakeEngine, finish, people

pytest.importorskip("flwr.app")

from federated._client_blocks import blocks_of
from federated.engine import FederatedEngine
from tests.support.in_process_grid import InProcessGrid, on

pytestmark = pytest.mark.flower

PLAIN = ("strategy=[]", "model.dropout=0", "learner.optimizer={name='sgd', lr=0.1}")


def of_clients(table: Path, *settings: str, clients: str = "hash:at:7") -> Job:
    return people(table, f"federated.clients={clients}", "federated.batch_clients=2", *PLAIN, *settings)


def in_blocks(*, workers: int = 1) -> MakeEngine:
    """Makes engines whose blocks of clients share so many workers."""

    def make(job: Job, folder: Path) -> FederatedEngine:
        blocks = blocks_of(job)
        grid = InProcessGrid(len(blocks), workers=workers)
        grid.workers_of = [place % workers for place in range(len(blocks))]
        return FederatedEngine(job, folder, grid)

    return make


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    path = max((folder / "versions").glob("*/model.safetensors"), key=lambda path: int(path.parent.name))
    return dict(load_file(path))


@pytest.mark.parametrize(
    ("clients", "settings"),
    [
        ("hash:at:7", ()),
        ("iid:7", ("federated.rounds=2", "federated.clients_per_round=3")),
        ("dirichlet:7:0.5", ("federated.fraction=0.5", "federated.select=rows")),
        ("hash:at:7", ('strategy=[{name="fedprox", strength=0.1}]', "learner.epochs=2")),
    ],
)
def test_clients_that_keep_nothing_learn_as_each_would_alone(
    table: Path, tmp_path: Path, clients: str, settings: tuple[str, ...]
) -> None:
    job = of_clients(table, *settings, "federated.batch_clients=0", clients=clients)
    alone = finish(job, tmp_path / "alone", on(InProcessGrid(7)))
    job = of_clients(table, *settings, "federated.stateless=true", clients=clients)
    assert len(blocks_of(job)) > 1
    together = finish(job, tmp_path / "together", in_blocks())
    assert together.learned == alone.learned == list(range(2000))
    assert together.score == pytest.approx(alone.score, abs=1e-3)
    for name, value in weights_of(tmp_path / "alone").items():
        torch.testing.assert_close(weights_of(tmp_path / "together")[name], value, rtol=1e-3, atol=1e-4)


def test_the_hash_is_the_same_for_any_number_of_workers(table: Path, tmp_path: Path) -> None:
    job = of_clients(table, "federated.stateless=true", "federated.fraction=0.5")
    results = [finish(job, tmp_path / str(count), in_blocks(workers=count)) for count in (1, 2)]
    assert results[0] == results[1]


def test_a_run_is_resumed_bit_for_bit(table: Path, tmp_path: Path) -> None:
    settings = ("federated.stateless=true", "federated.clients_per_round=3", "learner.batch_size=8", "learner.epochs=2")
    job = of_clients(table, *settings)
    whole = finish(job, tmp_path / "whole", in_blocks())
    for stop in (3, 6):
        finish(job, tmp_path / "parts", in_blocks(), stop_after=stop)
    assert finish(job, tmp_path / "parts", in_blocks(workers=2)) == whole


def test_a_block_has_consecutive_clients_by_the_job_alone(table: Path) -> None:
    job = of_clients(table, "federated.stateless=true", "federated.fraction=0.5")
    found = blocks_of(job)
    assert [block.name for block in found] == ["at-0 to 3", "at-4 to 6"]
    assert [block.partition.size for block in found if isinstance(block.partition, ByOwners)] == [4, 4]
