"""The laws for a head that is worked out from sums: wherever rows are learned, it is that of all of them at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.update import Weights
from tests.support.federated_runs import finish, people

pytest.importorskip("flwr.app")

from federated.engine import FederatedEngine
from tests.support.in_process_grid import InProcessGrid

pytestmark = pytest.mark.flower

HEAD = 'learner.head={name="ridge", features=60}'


def over(clients: int, **habits: object):  # type: ignore[no-untyped-def]
    return lambda job, folder: FederatedEngine(job, folder, InProcessGrid(clients, **habits))  # type: ignore[arg-type]


def headed(table: Path, *settings: str) -> Job:
    return people(table, "strategy=[]", "learner.warm_epochs=1", HEAD, *settings)


def weights(folder: Path) -> Weights:
    run = RunDirectory.open(folder)
    latest = run.latest()
    assert latest is not None
    return run.load(latest)[0]


def farthest(one: Path, other: Path) -> float:
    """How far two heads are apart, by their largest weight."""
    mine, theirs = weights(one), weights(other)
    names = [name for name in mine if "ridge_" in name]
    assert len(names) == 2
    return max(float((mine[name] - theirs[name]).abs().max() / mine[name].abs().max()) for name in names)


def test_one_client_with_all_rows_equals_local_bit_for_bit(table: Path, tmp_path: Path) -> None:
    job = headed(table, "federated.clients=blocks:1")
    local = finish(job, tmp_path / "local", LocalEngine)
    federated = finish(job, tmp_path / "federated", over(1))
    assert federated.sha256 == local.sha256
    assert federated.score == local.score > 0.6
    assert federated.learned == local.learned == list(range(2000))


@pytest.mark.parametrize("clients", ["colour", "dirichlet:4:0.1"])
def test_clients_with_any_part_of_the_rows_have_the_head_of_all(table: Path, tmp_path: Path, clients: str) -> None:
    # By ranges, since the scale of the first rows is that of the first increments of all, which begin at other times.
    ranges = "features.ranges={height=[100, 250], weight=[0, 200]}"
    job = headed(table, ranges, f'federated.clients="{clients}"')
    finish(job, tmp_path / "local", LocalEngine)
    finish(job, tmp_path / "federated", lambda job, folder: FederatedEngine(job, folder, InProcessGrid(4)))
    assert farthest(tmp_path / "federated", tmp_path / "local") < 1e-6


@pytest.mark.parametrize("engine", ["local", "federated"])
def test_resumed_equals_uninterrupted_bit_for_bit(table: Path, tmp_path: Path, engine: str) -> None:
    job = headed(table, "federated.clients=blocks:2", 'learner.head={name="ridge", features=60, decay=0.001}')
    make = LocalEngine if engine == "local" else over(2)
    whole = finish(job, tmp_path / "whole", make)
    finish(job, tmp_path / "stopped", make, stop_after=3)
    assert finish(job, tmp_path / "stopped", make).sha256 == whole.sha256


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_two_replicas_equal_two_clients_and_one_process(table: Path, tmp_path: Path) -> None:
    cluster = pytest.importorskip("cluster.engine")
    job = headed(table, "federated.clients=blocks:2", "stream.every=331", "cluster.average_every=2")
    replicas = finish(job, tmp_path / "cluster", cluster.ClusterEngine)
    clients = finish(job.with_settings(["cluster.average_every=0"]), tmp_path / "federated", over(2))
    assert clients.sha256 == replicas.sha256
    assert clients.score == replicas.score
    finish(job, tmp_path / "local", LocalEngine)
    assert farthest(tmp_path / "cluster", tmp_path / "local") < 1e-6


def test_a_version_holds_the_head_and_the_states_hold_the_sums(table: Path, tmp_path: Path) -> None:
    finish(headed(table), tmp_path / "run", LocalEngine)
    names = set(weights(tmp_path / "run"))
    assert {"model.layers.0.ridge_weight", "model.layers.0.ridge_bias"} < names
    assert not any("gram" in name for name in names)
