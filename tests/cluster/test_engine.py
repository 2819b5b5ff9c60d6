"""The cluster engine against the local one, and against itself when it is stopped and started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster._rank import Rank
from cluster.engine import ClusterEngine
from incr_core.errors import JobError, StreamError
from incr_core.job import Job
from incr_core.storage import model_sha256
from tests.support.cluster_runs import Learned, all_rows, first_rows, learned_on_cluster, rows_learned, run
from tests.support.heavy_rows import job as heavy_job
from tests.support.heavy_rows import table, written

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

REPLAY = {"name": "replay", "capacity": 60, "ratio": 1.0}


@pytest.fixture(scope="module")
def together(ray_session: None, small_job: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """A run in which everything random is at work."""
    return learned_on_cluster(random_job(small_job), tmp_path_factory.mktemp("together"))


def random_job(small_job: Callable[..., Job]) -> Job:
    return small_job("cluster.average_every=2", "model.dropout=0.2", strategy=[REPLAY])


def test_replicas_share_the_rows_and_count_what_they_send(together: Learned) -> None:
    assert [len(tick) for tick in together.arrivals] == [2] * 5
    assert all_rows(together.arrivals).equal(first_rows(470))
    assert sum(done.passes_rows for done in together.rounds) == 470
    # Of 100 rows each is dealt three blocks of 16 and one of 2, so 4 steps: two exchanges, of half and half.
    model = sum(value.nbytes for value in together.weights.values())
    assert together.rounds[0].bytes_exchanged == pytest.approx(2 * 2 * model, rel=0.1)


def test_law_8_the_same_seed_gives_the_same_weights_again(
    together: Learned, small_job: Callable[..., Job], tmp_path: Path
) -> None:
    assert learned_on_cluster(random_job(small_job), tmp_path).sha256 == together.sha256


def test_a_column_can_say_which_replica_owns_a_row(small_job: Callable[..., Job], tmp_path: Path) -> None:
    done = learned_on_cluster(small_job("cluster.partition=colour"), tmp_path)
    assert all_rows(done.arrivals).equal(first_rows(470))
    sizes = [[arrival.labelled for arrival in tick] for tick in done.arrivals]
    assert all(one != two for one, two in sizes), "three colours cannot be halved"


@pytest.mark.chaos
def test_a_resumed_run_of_shards_equals_an_uninterrupted_one(small_job: Callable[..., Job], tmp_path: Path) -> None:
    adam = "learner.optimizer={name='adam', lr=0.01}"
    job = small_job("cluster.replicas=1", "cluster.shards=2", adam, "model.dropout=0.1", strategy=[REPLAY])
    whole = run(job, tmp_path / "whole")
    run(job, tmp_path / "parts", increments=2)
    assert run(job, tmp_path / "parts") == whole


def test_an_error_of_the_job_arrives_as_itself(small_job: Callable[..., Job], tmp_path: Path) -> None:
    with pytest.raises(JobError, match="strategy replay"):
        learned_on_cluster(small_job("cluster.replicas=1", strategy=[REPLAY | {"capcity": 3}]), tmp_path)


def test_what_a_worker_meets_in_its_stream_arrives_as_itself(small_job: Callable[..., Job], tmp_path: Path) -> None:
    job = small_job("cluster.replicas=1", "features.numeric=['height', 'size']")
    with pytest.raises(StreamError, match=r"stream\.features\.size: expected float"):
        learned_on_cluster(job, tmp_path)


def test_a_version_stays_as_it_was_while_the_next_increment_is_learned(
    small_job: Callable[..., Job], tmp_path: Path
) -> None:
    """Workers save their state of the version after the one that is being written."""
    engine = ClusterEngine(small_job(), tmp_path)
    try:
        engine.start(None)
        engine.learn(engine.receive())
        learned = {name: value.clone() for name, value in engine.weights().items()}
        saving = engine.save(1)
        engine.learn(engine.receive())
        assert saving.meanwhile
        assert model_sha256(saving.weights(lambda: False)) == model_sha256(learned)
        assert model_sha256(engine.weights()) != model_sha256(learned)
        for replica in range(2):
            assert Rank(replica, 2, 0, 1).state(tmp_path, 1).is_dir()
            assert Rank(replica, 2, 0, 1).state(tmp_path, 2).is_dir()
    finally:
        engine.close()


def test_replicas_return_to_the_last_commit_when_an_increment_diverges(tmp_path: Path) -> None:
    settings = ("cluster.average_every=1", "publish.every=2")
    found = run(heavy_job(written(tmp_path / "a", table((3,))), *settings), tmp_path / "run")
    kept = [row for row in range(480) if row // 40 != 3]
    assert rows_learned(tmp_path / "run") == kept
    without = heavy_job(written(tmp_path / "b", table().take(kept)), *settings)
    assert run(without, tmp_path / "without") == found
