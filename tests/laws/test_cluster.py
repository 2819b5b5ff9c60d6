"""Laws 2 and 4 for the cluster; laws 1, 6 and 8 are in tests/cluster, where workers are killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.engine import ClusterEngine
from incr_core.commands.audit import audit
from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.loop._slice_totals import SliceTotals
from incr_core.registry import RunDirectory
from tests.support.cluster_runs import Learned, farthest, learned_locally, learned_on_cluster
from tests.support.federated_runs import finish

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

REPLAY = {"name": "replay", "capacity": 60, "ratio": 1.0}
EWC = {"name": "ewc", "strength": 30.0, "online": False}


def test_law_2_one_replica_equals_local_bit_for_bit(flights_job: Callable[..., Job], tmp_path: Path) -> None:
    job = flights_job("cluster.replicas=1", "outer={name='nesterov', lr=0.9, momentum=0.5}")
    cluster = job.with_settings(["cluster.memory_scope=all"])  # with nobody to draw others' rows from
    assert learned_on_cluster(cluster, tmp_path).sha256 == learned_locally(job, tmp_path).sha256


def test_law_2_slices_of_one_replica_are_those_of_local(flights_job: Callable[..., Job], tmp_path: Path) -> None:
    """And of two replicas, which each predict half of the rows, they are as many rows."""
    values = "features.slice_values={carrier = ['AA', 'UA']}"
    job = flights_job("cluster.replicas=1", "features.slices=['carrier']", values)
    one, local = learned_on_cluster(job, tmp_path), learned_locally(job, tmp_path)
    two = learned_on_cluster(job.with_settings(["cluster.replicas=2"]), tmp_path)
    assert told(one, job) == told(local, job)
    assert {name: rows for name, rows, _ in told(two, job)} == {name: rows for name, rows, _ in told(local, job)}
    assert len(told(local, job)) == 3


def test_law_2_rows_are_held_back_by_replicas_as_in_one_process(
    flights_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = flights_job("cluster.replicas=1", "publish.gate=true", "publish.holdout=0.2")
    runs = {
        "local": (job, LocalEngine),
        "one": (job, ClusterEngine),
        "two": (job.with_settings(["cluster.replicas=2"]), ClusterEngine),
    }
    found = {name: finish(wanted, tmp_path / name, engine) for name, (wanted, engine) in runs.items()}
    gates = {name: [one["gate"] for one in RunDirectory.open(tmp_path / name).versions()] for name in runs}
    assert found["one"].sha256 == found["local"].sha256
    assert gates["one"] == gates["local"]
    assert any("holdout" in one for one in gates["two"])
    assert found["two"].learned == found["local"].learned
    assert not audit(tmp_path / "two").violations


def told(learned: Learned, job: Job) -> list[tuple[str, float, float]]:
    """Of each slice, how many rows were scored, and the metric on them."""
    totals, objective = SliceTotals(), job.objective()
    for arrivals in learned.arrivals:
        totals.add([arrival.sliced for arrival in arrivals], objective)
    return sorted((name, one["rows"], one["auc"]) for name, one in totals.summary(objective).items())


def test_law_2_two_replicas_averaging_every_step_equal_two_micro_batches(
    small_job: Callable[..., Job],
    tmp_path: Path,
) -> None:
    plain = ["learner.optimizer={name='sgd', lr=0.1}", "learner.shuffle=false"]
    cluster = learned_on_cluster(small_job(*plain, "cluster.average_every=1"), tmp_path)
    local = learned_locally(small_job(*plain, "learner.accumulate=2"), tmp_path)
    assert farthest(cluster, local) < 1e-6
    assert farthest(cluster, learned_locally(small_job(*plain), tmp_path)) > 1e-3


PULLS = [EWC, *({"name": name} for name in ("si", "mas", "l2sp", "elastic", "fedprox", "features", "lwf"))]
MEMORIES = [{"name": name, "capacity": 60} for name in ("der", "agem", "mir")]
CHOICES = [{"name": "outliers", "threshold": 0.7, "window": 50}, {"name": "small_loss", "warmup": 4, "history": 20}]


@pytest.mark.parametrize(
    "strategy",
    [[], PULLS, MEMORIES, CHOICES],
    ids=["plain", "pulls", "memories", "choices"],
)
def test_law_4_sharded_equals_unsharded(
    strategy: list[dict[str, object]],
    small_job: Callable[..., Job],
    tmp_path: Path,
) -> None:
    settings = ["cluster.replicas=1", "learner.clip=1.0", "learner.accumulate=2"]
    sharded = learned_on_cluster(small_job(*settings, "cluster.shards=2", strategy=strategy), tmp_path)
    assert_alike(sharded, learned_locally(small_job(*settings, strategy=strategy), tmp_path))


def test_law_4_sharded_replicas_equal_unsharded_ones(
    small_job: Callable[..., Job],
    tmp_path: Path,
) -> None:
    outer = "outer={name='nesterov', lr=0.7, momentum=0.9}"
    settings = ["stream.every=235", "cluster.average_every=4", "cluster.memory_scope=all", outer]
    job = small_job(*settings, strategy=[REPLAY])
    sharded = learned_on_cluster(job.with_settings(["cluster.shards=2"]), tmp_path)
    unsharded = learned_on_cluster(job, tmp_path)
    assert_alike(sharded, unsharded)
    first, second = (done.bytes_exchanged for done in unsharded.rounds)
    assert second > first, "remembered rows travel too"


def assert_alike(sharded: Learned, unsharded: Learned) -> None:
    assert farthest(sharded, unsharded) < 1e-5
    for one, other in zip(sharded.rounds, unsharded.rounds, strict=True):
        assert one.passes_rows == other.passes_rows
        # A shard's part of a batch may be a row shorter, and so its part of the loss is not quite proportional.
        assert one.losses["loss"] == pytest.approx(other.losses["loss"], rel=0.05)
