"""The laws that clients must keep: 1 (resume), 3 (one client is local, two are two replicas), 8 (any order)."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.engine import LocalEngine
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.registry import RunDirectory
from incr_core.seal import model_sha256
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


@pytest.mark.parametrize("name", ["multilabel", "ranking", "next_token"])
def test_one_client_equals_local_whatever_the_objective(tmp_path: Path, name: str) -> None:
    job = several_parts(tmp_path, name)
    measured: list[tuple[str, dict[str, float]]] = []
    for make in (LocalEngine, over(1)):
        folder = tmp_path / str(len(measured))
        with RunDirectory(folder).create(job.toml(), job.fingerprint()) as directory:
            loop = Loop(job, make(job, folder), directory)
            loop.run()
            measured.append((model_sha256(loop.engine.weights()), loop.objective.metrics(loop.totals.statistics)))
            loop.engine.close()
    assert measured[0] == measured[1]


def several_parts(folder: Path, objective: str) -> Job:
    """A small job whose targets, outputs or predictions have several parts."""
    table = pa.table(
        {
            "x": [float(row % 7) for row in range(200)],
            "item": [f"p{row % 7}" for row in range(200)],
            "tags": [["a"] * (row % 2) + ["b"] * (row % 7 > 3) for row in range(200)],
            "bought": [row % 3 > 0 for row in range(200)],
            "words": [[(row + place) % 5 for place in range(6)] for row in range(200)],
        }
    )
    pq.write_table(table, folder / "rows.parquet")
    features = {
        "multilabel": {"label": "tags", "numeric": ["x"]},
        "ranking": {"label": "bought", "numeric": ["x"], "categorical": ["item"], "item": ["item"], "buckets": 16},
        "next_token": {"label": "words", "vocabulary": 5},
    }
    document = {
        "stream": {"path": str(folder / "rows.parquet"), "every": 50},
        "features": features[objective],
        "model": {"hidden": [8], "dimension": 4},
        "learner": {"objective": objective, "batch_size": 16},
        "strategy": [{"name": "replay", "capacity": 40}],
        "federated": {"clients": "blocks:1"},
        "publish": {"every": 2},
    }
    return Job.from_document(document).resolved()


def test_two_clients_equal_two_replicas_on_the_same_partition(table: Path, tmp_path: Path) -> None:
    cluster = pytest.importorskip("cluster.engine")
    # Increments of 330 rows: ten batches and ten rows, so that shares differ.
    settings = [STRATEGIES["ewc"], "outer=nesterov", "federated.clients=blocks:2", "stream.every=330"]
    job = people(table, *settings)
    replicas = finish(job, tmp_path / "cluster", cluster.ClusterEngine)
    clients = finish(job, tmp_path / "federated", over(2))
    assert clients.sha256 == replicas.sha256
    assert clients.auc == replicas.auc
