"""The laws for a model that is pruned while it learns: one mask everywhere, decided from the merged weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.models.adapt import magnitude_pruning, movement_pruning
from incr_core.registry import RunDirectory
from incr_core.strategies import Pruning
from incr_core.testing import check_strategy
from incr_core.update import Weights
from tests.support.federated_runs import finish, people

pytest.importorskip("flwr.app")

from federated.engine import FederatedEngine
from tests.support.in_process_grid import InProcessGrid

pytestmark = pytest.mark.flower

KINDS = ["magnitude_pruning", "movement_pruning"]


def over(clients: int, **habits: object):  # type: ignore[no-untyped-def]
    return lambda job, folder: FederatedEngine(job, folder, InProcessGrid(clients, **habits))  # type: ignore[arg-type]


def pruned(table: Path, kind: str, *settings: str, scope: str = "layer") -> Job:
    adapt = f'model.adapt=[{{name="{kind}", sparsity=0.75, over=4, scope="{scope}"}}]'
    return people(table, adapt, "learner.warm_epochs=1", *settings)


def weights(folder: Path) -> Weights:
    run = RunDirectory.open(folder)
    latest = run.latest()
    assert latest is not None
    return run.load(latest)[0]


def sparsity(folder: Path) -> list[float]:
    """The share of pruned weights of each layer of the last version."""
    found = weights(folder)
    return [float((~value).float().mean()) for name, value in found.items() if name.endswith("prune_mask")]


@pytest.mark.parametrize("kind", KINDS)
def test_one_client_with_all_rows_equals_local_bit_for_bit(table: Path, tmp_path: Path, kind: str) -> None:
    job = pruned(table, kind, "federated.clients=blocks:1")
    local = finish(job, tmp_path / "local", LocalEngine)
    federated = finish(job, tmp_path / "federated", over(1))
    assert federated.sha256 == local.sha256
    assert federated.score == local.score > 0.6
    assert sparsity(tmp_path / "local") == [0.75, 0.75]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["local", "federated"])
def test_resumed_equals_uninterrupted_bit_for_bit(table: Path, tmp_path: Path, engine: str, kind: str) -> None:
    job = pruned(table, kind, "federated.clients=blocks:2", scope="global")
    make = LocalEngine if engine == "local" else over(2)
    whole = finish(job, tmp_path / "whole", make)
    finish(job, tmp_path / "stopped", make, stop_after=3)
    between = sum((~value).sum() for name, value in weights(tmp_path / "stopped").items() if "prune_mask" in name)
    assert between > 0  # stopped within the schedule
    assert finish(job, tmp_path / "stopped", make).sha256 == whole.sha256


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("kind", KINDS)
def test_two_replicas_equal_two_clients(table: Path, tmp_path: Path, kind: str) -> None:
    cluster = pytest.importorskip("cluster.engine")
    job = pruned(table, kind, "federated.clients=blocks:2", "cluster.replicas=2", "stream.every=331", scope="global")
    replicas = finish(job, tmp_path / "cluster", cluster.ClusterEngine)
    clients = finish(job, tmp_path / "federated", over(2))
    assert clients.sha256 == replicas.sha256
    assert clients.score == replicas.score > 0.6


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_one_replica_equals_local_bit_for_bit(table: Path, tmp_path: Path) -> None:
    cluster = pytest.importorskip("cluster.engine")
    job = pruned(table, "movement_pruning", "cluster.replicas=1")
    replica = finish(job, tmp_path / "cluster", cluster.ClusterEngine)
    assert replica.sha256 == finish(job, tmp_path / "local", LocalEngine).sha256


def test_a_pruned_weight_is_zero_and_stays_so_while_the_others_learn(table: Path, tmp_path: Path) -> None:
    job = pruned(table, "magnitude_pruning", "federated.clients=colour", "publish.every=1")
    finish(job, tmp_path / "run", over(4), stop_after=6)
    early = weights(tmp_path / "run")
    finish(job, tmp_path / "run", over(4))
    late = weights(tmp_path / "run")
    names = [name for name in late if name.endswith("prune_mask")]
    assert len(names) == 2
    for name in names:
        original = name.replace("0.prune_mask", "original")
        assert torch.equal(late[name], early[name])  # the schedule had ended
        assert not late[original][~late[name]].any()
        moved = late[original] != early[original]
        assert moved[late[name]].float().mean() > 0.5  # the rest belongs to units that are off for all rows


def test_a_sparsity_of_zero_equals_no_pruning_bit_for_bit(table: Path, tmp_path: Path) -> None:
    finish(people(table, 'model.adapt=[{name="movement_pruning", sparsity=0.0}]'), tmp_path / "zero", LocalEngine)
    finish(people(table), tmp_path / "none", LocalEngine)
    expected, found = weights(tmp_path / "none"), weights(tmp_path / "zero")
    for name, value in expected.items():
        other = name if name in found else name.replace(".weight", ".parametrizations.weight.original")
        assert torch.equal(found[other], value), name


@pytest.mark.slow
@pytest.mark.parametrize("adapt", [magnitude_pruning, movement_pruning])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_obeys_the_laws_of_strategies(adapt, scope: str) -> None:  # type: ignore[no-untyped-def]
    def model() -> nn.Module:
        return adapt(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)))

    make = partial(Pruning, sparsity=0.6, over=3, scope=scope)
    check_strategy(make, zero=partial(Pruning, sparsity=0.0), model=model)
