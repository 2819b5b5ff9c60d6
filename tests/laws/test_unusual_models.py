"""The laws for a model that shares modules, draws anywhere, is frozen in part, makes layers late, holds odd types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.runs import Version
from tests.support.federated_runs import finish, people

pytest.importorskip("flwr.app")

from federated.engine import FederatedEngine
from tests.support.in_process_grid import InProcessGrid

pytestmark = pytest.mark.flower

FACTORY = 'model={factory="tests.support.unusual_model:model"}'
NESTEROV = "outer={name='nesterov', lr=0.7, momentum=0.9}"


def over(clients: int, **habits: object) -> Callable[[Job, Path], FederatedEngine]:
    return lambda job, folder: FederatedEngine(job, folder, InProcessGrid(clients, **habits))  # type: ignore[arg-type]


def job_of(table: Path, *settings: str) -> Job:
    return people(table, FACTORY, "strategy=[]", NESTEROV, *settings)


def test_resumed_equals_uninterrupted(table: Path, tmp_path: Path) -> None:
    whole = finish(job_of(table), tmp_path / "whole", LocalEngine)
    for stop in (1, 3):
        finish(job_of(table), tmp_path / "parts", LocalEngine, stop_after=stop)
    assert finish(job_of(table), tmp_path / "parts", LocalEngine) == whole


def test_one_client_equals_local_and_answers_in_any_order(table: Path, tmp_path: Path) -> None:
    one = job_of(table, "federated.clients=blocks:1")
    local = finish(one, tmp_path / "local", LocalEngine)
    assert finish(one, tmp_path / "one", over(1)).sha256 == local.sha256
    three = finish(job_of(table), tmp_path / "three", over(3))
    assert finish(job_of(table), tmp_path / "shuffled", over(3, shuffle=5)) == three


def test_a_published_version_holds_each_tensor_once_and_answers_as_the_run_did(table: Path, tmp_path: Path) -> None:
    finish(job_of(table), tmp_path / "run", LocalEngine)
    weights, manifest = RunDirectory.open(tmp_path / "run").load()
    assert manifest["pairs"] == {"model.turn": "complex128"}
    version = Version.load(tmp_path / "run")
    assert sorted(version.learner.weights()) == sorted(weights)
    model = version.learner.model
    tied = model.get_parameter("inner.tied.weight")
    assert tied is model.get_parameter("inner.layers.2.0.weight")
    assert torch.equal(tied, weights["model.inner.layers.0.0.weight"])
    assert not model.get_buffer("frozen.running_mean").any()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_one_replica_equals_local_and_two_clients_equal_two_replicas(table: Path, tmp_path: Path) -> None:
    cluster = pytest.importorskip("cluster.engine").ClusterEngine
    one = job_of(table, "cluster.replicas=1")
    assert finish(one, tmp_path / "one", cluster).sha256 == finish(one, tmp_path / "local", LocalEngine).sha256
    sides = [
        "cluster.replicas=2",
        "cluster.partition=colour",
        "cluster.average_every=0",
        "federated.clients=hash:colour:2",
    ]
    two = job_of(table, *sides)
    assert finish(two, tmp_path / "replicas", cluster).sha256 == finish(two, tmp_path / "clients", over(2)).sha256
