"""The laws that clients must keep: 1 (resume), 3 (one client is local, two are two replicas), 8 (any order)."""

from __future__ import annotations

from pathlib import Path

import pytest

from incr_core.engine import LocalEngine
from incr_core.job import Job
from tests.federated.runs import finish, people

pytest.importorskip("flwr.app")

from federated.engine import FederatedEngine
from tests.federated.in_process import InProcessGrid

STRATEGIES = {
    "none": "strategy=[]",
    "replay": 'strategy=[{name="replay", capacity=100}]',
    "ewc": 'strategy=[{name="ewc", strength=10.0}, {name="replay", capacity=100}]',
}


def over(clients: int, **habits: object):  # type: ignore[no-untyped-def]
    return lambda job, folder: FederatedEngine(job, folder, InProcessGrid(clients, **habits))  # type: ignore[arg-type]


@pytest.mark.parametrize(("strategy", "outer"), [("none", "mean"), ("replay", "nesterov"), ("ewc", "nesterov")])
def test_one_client_with_all_rows_equals_local_bit_for_bit(
    table: Path, tmp_path: Path, strategy: str, outer: str
) -> None:
    job = people(table, "federated.clients=blocks:1", STRATEGIES[strategy], f"outer={outer}")
    local = finish(job, tmp_path / "local", LocalEngine)
    federated = finish(job, tmp_path / "federated", over(1))
    assert federated.sha256 == local.sha256
    assert federated.auc == local.auc
    assert federated.learned == local.learned == list(range(2000))


@pytest.mark.parametrize("strategy", ["replay", "ewc"])
def test_resumed_equals_uninterrupted_bit_for_bit(table: Path, tmp_path: Path, strategy: str) -> None:
    job = people(table, STRATEGIES[strategy], "outer=nesterov", "federated.rounds=2")
    whole = finish(job, tmp_path / "whole", over(3))
    for stop in (1, 5):
        finish(job, tmp_path / "parts", over(3), stop_after=stop)
    assert finish(job, tmp_path / "parts", over(3)) == whole


def test_replies_in_any_order_give_the_same_bits(table: Path, tmp_path: Path) -> None:
    job = people(table, STRATEGIES["ewc"])
    found = [finish(job, tmp_path / str(seed), over(3, shuffle=seed)) for seed in range(3)]
    assert all(result == found[0] for result in found)


def test_one_client_with_all_real_flights_equals_local(flights_job, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    job: Job = flights_job("federated.clients=blocks:1")
    local = finish(job, tmp_path / "local", LocalEngine)
    assert finish(job, tmp_path / "federated", over(1)).sha256 == local.sha256


def test_two_clients_equal_two_replicas_on_the_same_partition(table: Path, tmp_path: Path) -> None:
    cluster = pytest.importorskip("cluster.engine")
    # Increments of 330 rows: ten batches and ten rows, so that shares differ.
    settings = [STRATEGIES["ewc"], "outer=nesterov", "federated.clients=blocks:2", "stream.every=330"]
    job = people(table, *settings)
    replicas = finish(job, tmp_path / "cluster", cluster.ClusterEngine)
    clients = finish(job, tmp_path / "federated", over(2))
    assert clients.sha256 == replicas.sha256
    assert clients.auc == replicas.auc
