"""The laws for a model that learns with rounded weights and inputs: the ranges of its inputs are saved and merged."""

from __future__ import annotations

from pathlib import Path

import pytest

from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.registry import RunDirectory
from tests.support.federated_runs import finish, people

pytest.importorskip("flwr.app")

from federated.engine import FederatedEngine
from tests.support.in_process_grid import InProcessGrid

pytestmark = pytest.mark.flower


def over(clients: int, **habits: object):  # type: ignore[no-untyped-def]
    return lambda job, folder: FederatedEngine(job, folder, InProcessGrid(clients, **habits))  # type: ignore[arg-type]


def aware(table: Path, *settings: str) -> Job:
    return people(table, 'model.adapt=[{name="qat", rate=0.1}]', *settings)


def ranges(folder: Path) -> list[list[float]]:
    run = RunDirectory.open(folder)
    latest = run.latest()
    assert latest is not None
    return [value.tolist() for name, value in run.load(latest)[0].items() if name.endswith(".inputs.ends")]


def test_one_client_with_all_rows_equals_local_bit_for_bit(table: Path, tmp_path: Path) -> None:
    job = aware(table, "federated.clients=blocks:1")
    local = finish(job, tmp_path / "local", LocalEngine)
    federated = finish(job, tmp_path / "federated", over(1))
    assert federated.sha256 == local.sha256
    assert federated.score == local.score > 0.6
    assert all(low < high for low, high in ranges(tmp_path / "local"))


@pytest.mark.parametrize("engine", ["local", "federated"])
def test_resumed_equals_uninterrupted_bit_for_bit(table: Path, tmp_path: Path, engine: str) -> None:
    job = aware(table, "federated.clients=blocks:2")
    make = LocalEngine if engine == "local" else over(2)
    whole = finish(job, tmp_path / "whole", make)
    finish(job, tmp_path / "stopped", make, stop_after=3)
    assert finish(job, tmp_path / "stopped", make).sha256 == whole.sha256


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_replicas_equal_clients_and_one_replica_equals_local(table: Path, tmp_path: Path) -> None:
    cluster = pytest.importorskip("cluster.engine")
    job = aware(table, "federated.clients=blocks:2", "cluster.replicas=2", "stream.every=331")
    replicas = finish(job, tmp_path / "cluster", cluster.ClusterEngine)
    clients = finish(job, tmp_path / "federated", over(2))
    assert clients.sha256 == replicas.sha256
    one = aware(table, "cluster.replicas=1")
    assert (
        finish(one, tmp_path / "one", cluster.ClusterEngine).sha256
        == finish(one, tmp_path / "local", LocalEngine).sha256
    )
