"""The laws that clients must keep: 1 (resume), 3 (one client is local, two are two replicas), 8 (any order)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.registry import RunDirectory
from incr_core.runs import Version
from incr_core.storage import model_sha256
from tests.support.drifting import EVERYTHING, drifting
from tests.support.drifting import job as watched
from tests.support.federated_runs import finish, people

pytest.importorskip("flwr.app")

from federated.engine import FederatedEngine
from tests.support.in_process_grid import InProcessGrid

pytestmark = pytest.mark.flower


def on_ray(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test of the cluster."""
    marked: Callable[..., None] = pytest.mark.ray(pytest.mark.usefixtures("ray_session")(test))
    return marked


STRATEGIES = {
    "none": "strategy=[]",
    "replay": 'strategy=[{name="replay", capacity=100}]',
    "ewc": 'strategy=[{name="ewc", strength=10.0}, {name="replay", capacity=100}]',
    "chosen": 'strategy=[{name="replay", capacity="4kB", ttl=400}, {name="small_loss"}, {name="selective"}]',
}


def over(clients: int, **habits: object):  # type: ignore[no-untyped-def]
    return lambda job, folder: FederatedEngine(job, folder, InProcessGrid(clients, **habits))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("strategy", "outer"), [("none", "mean"), ("replay", "nesterov"), ("ewc", "nesterov"), ("chosen", "mean")]
)
def test_one_client_with_all_rows_equals_local_bit_for_bit(
    table: Path, tmp_path: Path, strategy: str, outer: str
) -> None:
    job = people(table, "federated.clients=blocks:1", STRATEGIES[strategy], f"outer={outer}")
    local = finish(job, tmp_path / "local", LocalEngine)
    federated = finish(job, tmp_path / "federated", over(1))
    assert federated.sha256 == local.sha256
    assert federated.score == local.score
    assert federated.learned == local.learned == list(range(2000))


REMAKERS = {
    "gdumb": 'strategy=[{name="gdumb", capacity=60, passes=20}]',
    "icarl": 'strategy=[{name="icarl", capacity=60}]',
    "packnet": 'strategy=[{name="packnet", every=2, tasks=3}]',
}


def of_classes(table: Path, strategy: str, *settings: str) -> Job:
    adapt = ['model.adapt=[{name="nearest_mean"}]'] if strategy == "icarl" else []
    classes = ['learner.objective="multiclass"', 'outer="mean"']
    return people(table, *classes, REMAKERS[strategy], *adapt, *settings)


@pytest.mark.parametrize("outer", ["mean", "nesterov"])
@pytest.mark.parametrize("strategy", REMAKERS)
def test_what_consolidating_makes_of_the_model_is_published(
    table: Path, tmp_path: Path, strategy: str, outer: str
) -> None:
    """GDumb retrains, iCaRL tells class means, PackNet prunes: all of it after the round's weights were merged."""
    job = of_classes(table, strategy, "federated.clients=blocks:1", f"outer={outer}")
    local = finish(job, tmp_path / "local", LocalEngine)
    assert finish(job, tmp_path / "federated", over(1)).sha256 == local.sha256


@pytest.mark.parametrize("strategy", REMAKERS)
def test_what_clients_made_of_the_model_is_merged_and_resumed(table: Path, tmp_path: Path, strategy: str) -> None:
    job = of_classes(table, strategy, "federated.rounds=2")
    whole = finish(job, tmp_path / "whole", over(3))
    finish(job, tmp_path / "parts", over(3), stop_after=3)
    assert finish(job, tmp_path / "parts", over(3)) == whole
    assert whole.score > (0.6 if strategy == "gdumb" else 0.7)  # of 60 rows a client


@pytest.mark.parametrize("strategy", ["replay", "ewc"])
def test_resumed_equals_uninterrupted_bit_for_bit(table: Path, tmp_path: Path, strategy: str) -> None:
    job = people(table, STRATEGIES[strategy], "outer=nesterov", "federated.rounds=2")
    whole = finish(job, tmp_path / "whole", over(3))
    for stop in (1, 5):
        finish(job, tmp_path / "parts", over(3), stop_after=stop)
    assert finish(job, tmp_path / "parts", over(3)) == whole


def test_schedules_and_groups_live_where_the_learner_does(table: Path, tmp_path: Path) -> None:
    schedules = [
        "{name='onecycle', max_lr=0.05, total_steps=2000}",
        "{name='exponential', gamma=0.7, each='increment'}",
    ]
    groups = "learner.groups=[{match='layers.*.bias', lr=0.001}]"
    found = []
    for number, schedule in enumerate(schedules):
        job = people(table, "federated.clients=blocks:1", STRATEGIES["none"], f"learner.schedule={schedule}", groups)
        local = finish(job, tmp_path / f"local{number}", LocalEngine)
        finish(job, tmp_path / f"federated{number}", over(1), stop_after=3)
        assert finish(job, tmp_path / f"federated{number}", over(1)).sha256 == local.sha256
        found.append(local.sha256)
    assert found[0] != found[1]


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
        with RunDirectory.create(folder, job.toml(), job.fingerprint()) as directory:
            loop = Loop(job, make(job, folder), directory)
            loop.run()
            measured.append((model_sha256(loop.engine.weights()), loop.objective.metrics(loop.totals.statistics)))
            loop.engine.close()
    assert measured[0] == measured[1]


def test_a_class_that_one_client_alone_has_seen_is_known_to_all(tmp_path: Path) -> None:
    """Labels 0 and 1 everywhere; from the fourth increment on, label 2 at one of the two clients."""
    late = [row >= 300 and row % 2 == 0 and row % 3 == 0 for row in range(600)]
    label = [2 if new else row // 2 % 2 for row, new in enumerate(late)]
    x = [3.0 * value + (row % 5 - 2) * 0.05 for row, value in enumerate(label)]
    who = ["AA" if row % 2 else "UA" for row in range(600)]
    pq.write_table(pa.table({"x": x, "who": who, "y": label}), tmp_path / "rows.parquet")
    document = {
        "stream": {"path": str(tmp_path / "rows.parquet"), "every": 100},
        "features": {"label": "y", "numeric": ["x"], "capacity": 4},
        "model": {"hidden": [16]},
        "learner": {
            "objective": "multiclass",
            "batch_size": 10,
            "epochs": 8,
            "optimizer": {"name": "adam", "lr": 0.02},
        },
        "strategy": [{"name": "ewc", "strength": 0.1}, {"name": "replay", "capacity": 50}],
        "federated": {"clients": "who"},
        "publish": {"every": 2},
    }
    job = Job.from_document(document).resolved()
    found = {}
    for name, stops in (("whole", []), ("parts", [3, 5])):
        for stop in [*stops, None]:
            with RunDirectory.create(tmp_path / name, job.toml(), job.fingerprint()) as directory:
                loop = Loop(job, over(2)(job, tmp_path / name), directory)
                if stop:
                    loop.on_progress = lambda _, loop=loop, stop=stop: (
                        loop.totals.increments >= stop and loop._stop.set()
                    )
                loop.run()
                found[name] = {key: value.clone() for key, value in loop.engine.weights().items()}
                loop.engine.close()
    assert all(value.equal(found["parts"][key]) for key, value in found["whole"].items())
    counts = found["whole"]["objective.counts"].tolist()
    assert counts == [label.count(0), label.count(1), label.count(2), 0]
    version = Version.load(tmp_path / "whole")
    measured = version.predict(tmp_path / "rows.parquet")
    right = [said == "2" for said, truth in zip(measured["class"].to_pylist(), label, strict=True) if truth == 2]
    assert sum(right) > 0.8 * len(right)


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


@on_ray
@pytest.mark.parametrize(
    ("strategy", "more"),
    [
        ("ewc", ()),
        ("gdumb", ()),
        pytest.param("icarl", (), marks=pytest.mark.chaos),
        pytest.param("packnet", (), marks=pytest.mark.chaos),
        ("ewc", ("learner.consolidate=600",)),
    ],
    ids=["ewc", "gdumb", "icarl", "packnet", "ewc over several increments"],
)
def test_two_clients_equal_two_replicas_on_the_same_partition(
    table: Path, tmp_path: Path, strategy: str, more: tuple[str, ...]
) -> None:
    cluster = pytest.importorskip("cluster.engine")
    # Increments of 331 rows, so that shares differ. The warm start is passed over twice, the others once: what
    # strategies share counts rows, not passes.
    settings = ["outer=nesterov", "federated.clients=blocks:2", "stream.every=331", *more]
    remakes = strategy in REMAKERS
    job = of_classes(table, strategy, *settings) if remakes else people(table, STRATEGIES[strategy], *settings)
    replicas = finish(job, tmp_path / "cluster", cluster.ClusterEngine)
    clients = finish(job, tmp_path / "federated", over(2))
    assert clients.sha256 == replicas.sha256
    assert clients.score == replicas.score


def drifting_job(folder: Path, *settings: str) -> Job:
    """Half a stream of one concept and half of another, watched, with everything that can be done about it."""
    pytest.importorskip("river")
    pq.write_table(drifting(5_000, (3_000,)), folder / "drifting.parquet")
    strategies = [{"name": "ewc", "strength": 5.0}, {"name": "replay", "capacity": 100}]
    settings = ("learner.consolidate=1500", "publish.every=4", "outer=nesterov", *settings)
    return watched(folder / "drifting.parquet", *settings, drift=EVERYTHING, strategy=strategies)


def test_one_client_does_about_a_drift_what_the_local_engine_does(tmp_path: Path) -> None:
    job = drifting_job(tmp_path, "federated.clients=blocks:1")
    local = finish(job, tmp_path / "local", LocalEngine)
    assert finish(job, tmp_path / "federated", over(1)).sha256 == local.sha256
    events = pq.read_table(tmp_path / "local" / "events")
    assert events.num_rows >= 2
    assert pq.read_table(tmp_path / "federated" / "events").equals(events)


@on_ray
def test_two_clients_do_about_a_drift_what_two_replicas_do_and_after_a_resume_too(tmp_path: Path) -> None:
    cluster = pytest.importorskip("cluster.engine")
    job = drifting_job(tmp_path, "federated.clients=blocks:2")
    replicas = finish(job, tmp_path / "cluster", cluster.ClusterEngine)
    assert finish(job, tmp_path / "federated", over(2, forgetful=True)).sha256 == replicas.sha256
    assert pq.read_table(tmp_path / "cluster" / "events").num_rows >= 2
    for stop in (13, 15):
        finish(job, tmp_path / "parts", over(2), stop_after=stop)
    assert finish(job, tmp_path / "parts", over(2)).sha256 == replicas.sha256


@on_ray
def test_clients_and_replicas_review_the_same_rows(table: Path, tmp_path: Path) -> None:
    cluster = pytest.importorskip("cluster.engine")
    settings = ("review.every=2", "review.rows=200", STRATEGIES["ewc"], "outer=nesterov")
    job = people(table, *settings, "federated.clients=blocks:2")
    replicas = finish(job, tmp_path / "cluster", cluster.ClusterEngine)
    clients = finish(job, tmp_path / "federated", over(2, forgetful=True))
    assert clients.sha256 == replicas.sha256
    assert clients.learned == list(range(2000))
    assert pq.read_table(tmp_path / "cluster" / "events")["rows"].to_pylist() == [200] * 4
    alone = people(table, *settings, "federated.clients=blocks:1")
    local = finish(alone, tmp_path / "local", LocalEngine)
    assert finish(alone, tmp_path / "one", over(1)).sha256 == local.sha256 != replicas.sha256
    for stop in (3, 4):
        finish(job, tmp_path / "parts", over(2), stop_after=stop)
    assert finish(job, tmp_path / "parts", over(2)).sha256 == replicas.sha256


@on_ray
def test_a_round_in_which_nobody_learns_a_row_moves_nothing(table: Path, tmp_path: Path) -> None:
    """Momentum would: the files of the rows to review are gone."""
    cluster = pytest.importorskip("cluster.engine")
    job = people(table, STRATEGIES["none"], "outer=nesterov", "federated.clients=blocks:2")
    for engine in (LocalEngine(job, tmp_path), cluster.ClusterEngine(job, tmp_path), over(2)(job, tmp_path)):
        engine.start(None)
        for _ in range(2):
            arrivals = engine.receive()
            assert engine.learn(arrivals).passes_rows > 0
        before = {name: value.clone() for name, value in engine.weights().items()}
        none = dict.fromkeys(engine.participants, torch.empty(0, dtype=torch.int64))
        assert engine.learn(arrivals, none).passes_rows == 0
        assert all(value.equal(before[name]) for name, value in engine.weights().items()), engine.name
        engine.close()


def test_one_client_stops_early_where_the_local_engine_does(table: Path, tmp_path: Path) -> None:
    job = people(table, "learner.epochs=4", "learner.validation=0.2", "federated.clients=blocks:1")
    local = finish(job, tmp_path / "local", LocalEngine)
    assert finish(job, tmp_path / "federated", over(1, forgetful=True)).sha256 == local.sha256
    assert local.learned == list(range(2000))
