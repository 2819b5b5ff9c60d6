"""Laws 1, 2 and 3 for tables of ids, whose rows are given out by counts that are summed first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.update import Weights
from tests.support.cluster_runs import farthest, learned_locally, learned_on_cluster
from tests.support.federated_runs import finish

pytest.importorskip("flwr.app")

from federated.engine import FederatedEngine
from tests.support.in_process_grid import InProcessGrid


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of 40 items by 60 users, some of whom come late; a few users are missing."""
    draw = np.random.default_rng(0)
    user, item = draw.integers(0, 60, 1000), draw.zipf(1.5, 1000) % 40
    user = np.minimum(user, 20 + np.arange(1000) // 25)
    rating = draw.normal(size=60)[user] + draw.normal(size=40)[item] + 0.3 * draw.normal(size=1000)
    users = pa.array([None if place % 50 == 0 else int(one) for place, one in enumerate(user)])
    path = tmp_path_factory.mktemp("ratings") / "ratings.parquet"
    names = [f"i{one}" for one in item]
    pq.write_table(pa.table({"user": users, "item": names, "hour": draw.random(1000), "rating": rating}), path)
    return path


def job(path: Path, *settings: str) -> Job:
    document = {
        "stream": {"path": str(path), "every": 100},
        "features": {"label": "rating", "ids": ["user", "item"], "numeric": ["hour"], "id_rows": 30, "id_after": 2},
        "model": {"kind": "factorisation", "embedding": 4},
        "learner": {"objective": "regression", "batch_size": 16},
        "cluster": {"timeout": 600},
    }
    return Job.from_document(document, settings).resolved()


def over(clients: int):  # type: ignore[no-untyped-def]
    return lambda job, folder: FederatedEngine(job, folder, InProcessGrid(clients))


KINDS = {
    "factorisation": [],
    "mlp": ["model.kind=mlp", "model.hidden=[8]", "strategy=[{name='replay', capacity=60}]"],
    "two_towers": [
        "model.kind=two_towers",
        "model.hidden=[]",
        "model.dimension=4",
        "learner.objective=ranking",
        "features.numeric=[]",
        "features.item=['item']",
    ],
    "ewc": ["strategy=[{name='ewc', strength=10.0}]"],
    "adam": ["learner.optimizer={name='adam', lr=0.01}", "strategy=[{name='replay', capacity=60}]"],
}


def weights(folder: Path) -> Weights:
    run = RunDirectory.open(folder)
    latest = run.latest()
    assert latest is not None
    return run.load(latest)[0]


@pytest.mark.flower
@pytest.mark.parametrize("kind", KINDS)
def test_law_3_one_client_equals_local_bit_for_bit(ratings: Path, tmp_path: Path, kind: str) -> None:
    text = job(ratings, "federated.clients=blocks:1", *KINDS[kind])
    local = finish(text, tmp_path / "local", LocalEngine)
    federated = finish(text, tmp_path / "federated", over(1))
    assert (federated.sha256, federated.score) == (local.sha256, local.score)


@pytest.mark.flower
@pytest.mark.parametrize("engine", ["local", "federated"])
def test_law_1_resumed_equals_uninterrupted_bit_for_bit(ratings: Path, tmp_path: Path, engine: str) -> None:
    text = job(ratings, "federated.clients=blocks:2", "features.id_unused=300")
    make: Callable[..., object] = LocalEngine if engine == "local" else over(2)
    whole = finish(text, tmp_path / "whole", make)  # type: ignore[arg-type]
    finish(text, tmp_path / "stopped", make, stop_after=4)  # type: ignore[arg-type]
    assert finish(text, tmp_path / "stopped", make).sha256 == whole.sha256  # type: ignore[arg-type]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_law_2_one_replica_equals_local_bit_for_bit(ratings: Path, tmp_path: Path) -> None:
    text = job(ratings, "cluster.replicas=1")
    assert learned_on_cluster(text, tmp_path).sha256 == learned_locally(text, tmp_path).sha256


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_law_2_two_replicas_averaging_every_step_equal_two_micro_batches(ratings: Path, tmp_path: Path) -> None:
    plain = ["learner.shuffle=false", "learner.optimizer={name='sgd', lr=0.05}"]
    cluster = learned_on_cluster(job(ratings, *plain, "cluster.average_every=1"), tmp_path)
    local = learned_locally(job(ratings, *plain, "learner.accumulate=2"), tmp_path)
    assert farthest(cluster, local) < 1e-5
    assert farthest(cluster, learned_locally(job(ratings, *plain), tmp_path)) > 1e-3


@pytest.mark.ray
@pytest.mark.flower
@pytest.mark.usefixtures("ray_session")
def test_law_3_two_clients_equal_two_replicas_and_have_the_rows_of_one_process(ratings: Path, tmp_path: Path) -> None:
    cluster = pytest.importorskip("cluster.engine")
    text = job(ratings, "federated.clients=blocks:2", "features.id_unused=300")
    replicas = finish(text, tmp_path / "cluster", cluster.ClusterEngine)
    clients = finish(text, tmp_path / "federated", over(2))
    assert (clients.sha256, clients.score) == (replicas.sha256, replicas.score)
    finish(text, tmp_path / "local", LocalEngine)
    ours, theirs = weights(tmp_path / "local"), weights(tmp_path / "federated")
    for name in ("keys", "seen", "used", "lately", "clock"):
        for table in ("model.tables.0", "model.tables.1"):
            assert ours[f"{table}.{name}"].equal(theirs[f"{table}.{name}"]), name
