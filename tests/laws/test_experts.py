"""Laws 1, 2, 3 and 12 for a job of several experts: their weights, and what is solved, are sums that merge exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from incr_core.engines import LocalEngine
from incr_core.job import Job
from tests.support.federated_runs import Result, finish, people

AUTO = ("model.kind=auto", "learner.epochs=auto", 'strategy=[{name="replay", capacity=200, memory="window"}]')


def clients(count: int):  # type: ignore[no-untyped-def]
    """Makes a federated engine with so many clients, in this process."""
    pytest.importorskip("flwr.app")
    from federated.engine import FederatedEngine
    from tests.support.in_process_grid import InProcessGrid

    return lambda job, folder: FederatedEngine(job, folder, InProcessGrid(count))


def same(one: Result, other: Result) -> None:
    assert one.sha256 == other.sha256
    assert one.score == other.score


def experts(table: Path, *settings: str) -> Job:
    return people(table, *AUTO, *settings)


def test_law_1_a_run_that_was_stopped_goes_on_to_the_same_bits(table: Path, tmp_path: Path) -> None:
    whole = finish(experts(table), tmp_path / "whole", LocalEngine)
    finish(experts(table), tmp_path / "parts", LocalEngine, stop_after=4)
    same(finish(experts(table), tmp_path / "parts", LocalEngine), whole)


@pytest.mark.flower
@pytest.mark.parametrize("outer", ["mean", "nesterov"])
def test_law_3_one_client_equals_local_bit_for_bit(table: Path, tmp_path: Path, outer: str) -> None:
    job = experts(table, "federated.clients=blocks:1", f"outer={outer}")
    same(finish(job, tmp_path / "federated", clients(1)), finish(job, tmp_path / "local", LocalEngine))


@pytest.mark.ray
@pytest.mark.flower
@pytest.mark.usefixtures("ray_session")
def test_law_3_two_clients_equal_two_replicas_bit_for_bit(table: Path, tmp_path: Path) -> None:
    cluster = pytest.importorskip("cluster.engine")
    job = experts(table, "outer=nesterov", "federated.clients=blocks:2", "stream.every=331")
    same(finish(job, tmp_path / "federated", clients(2)), finish(job, tmp_path / "cluster", cluster.ClusterEngine))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_law_2_two_replicas_averaging_every_step_equal_two_micro_batches(small_job, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from tests.support.cluster_runs import learned_locally, learned_on_cluster

    plain = ["model.kind=auto", "learner.optimizer={name='sgd', lr=0.1}", "learner.shuffle=false"]
    cluster = learned_on_cluster(small_job(*plain, "cluster.average_every=1"), tmp_path)
    local = learned_locally(small_job(*plain, "learner.accumulate=2"), tmp_path)
    for name, value in local.weights.items():
        torch.testing.assert_close(cluster.weights[name], value, rtol=1e-6, atol=1e-6, msg=name)
