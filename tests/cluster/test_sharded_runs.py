"""Replicas of several shards: they come and go, exchange by the clock, late, or rounded, as those of one shard do."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.engine import ClusterEngine
from incr_core.job import Job
from incr_core.loop import Loop, Progress
from incr_core.registry import RunDirectory
from incr_core.rounds import AsRecorded, ByTime, Pace
from incr_core.storage import model_sha256
from tests.support.cluster_runs import Learned, farthest, learned_on_cluster, rows_learned, run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

REPLAY, EWC = {"name": "replay", "capacity": 60}, {"name": "ewc", "strength": 10.0}


def job_of(small_job: Callable[..., Job], *settings: str, shards: int = 2) -> Job:
    outer = "outer={name='nesterov', lr=0.7, momentum=0.9}"
    return small_job(outer, f"cluster.shards={shards}", *settings, strategy=[REPLAY, EWC])


LATE, ROUNDED = ["cluster.average_every=1", "cluster.overlap=true"], ["cluster.average_every=2", "cluster.wire=int8"]


@pytest.mark.chaos
def test_a_mean_that_comes_a_round_late(small_job: Callable[..., Job], tmp_path: Path) -> None:
    found = learned_on_cluster(job_of(small_job, *LATE), tmp_path)
    assert farthest(found, learned_on_cluster(job_of(small_job, *LATE, shards=1), tmp_path)) < 1e-5


@pytest.mark.chaos
def test_weights_that_are_rounded_on_their_way(small_job: Callable[..., Job], tmp_path: Path) -> None:
    """Each shard rounds blocks of its own, so what is left over differs from that of one worker."""
    job = job_of(small_job, *ROUNDED)
    whole = run(job, tmp_path / "whole")
    run(job, tmp_path / "parts", increments=2)
    assert run(job, tmp_path / "parts") == whole
    exact = learned_on_cluster(job_of(small_job, *ROUNDED, "cluster.wire=float32"), tmp_path)
    assert 0 < farthest(learned_on_cluster(job, tmp_path), exact) < 0.05


class ShortRounds(ClusterEngine):
    """Rounds in which no machine comes to the end of an increment."""

    def _pace(self) -> Pace:
        return ByTime(0.001)


@pytest.mark.chaos
def test_rounds_by_the_clock_of_the_first_shard(small_job: Callable[..., Job], tmp_path: Path) -> None:
    job = job_of(small_job, "cluster.pace=time", "cluster.average_every=1s", "learner.epochs=2", "model.dropout=0.1")
    with RunDirectory.create(tmp_path / "run", job.toml(), "cluster") as directory:
        engine = ShortRounds(job, tmp_path / "run")
        try:
            Loop(job, engine, directory).run()
            found = model_sha256(engine.weights())
        finally:
            engine.close()
        recorded: list[list[list[int]]] = directory.table("metrics")["steps"].to_pylist()
    assert rows_learned(tmp_path / "run") == list(range(470))
    assert all(len(steps) == 2 and len(steps[0]) > 1 for steps in recorded)

    class Again(ClusterEngine):
        def _pace(self) -> Pace:
            return AsRecorded(recorded.pop(0))

    assert Learned(Again, job, tmp_path / "again").sha256 == found


@pytest.mark.chaos
def test_law_9_a_log_of_members_makes_the_same_run_again(small_job: Callable[..., Job], tmp_path: Path) -> None:
    """With the same bits, whether stopped in between, and to rounding those of replicas of one shard."""
    log = "cluster.replicas=[[0, 1], [2, 2], [4, 1]]"
    job = job_of(small_job, log)
    found = run(job, tmp_path / "run")
    assert rows_learned(tmp_path / "run") == list(range(470))
    told = [event["what"] for event in RunDirectory.open(tmp_path / "run").table("events").to_pylist()]
    assert told == ["from 1 to 2 replicas", "from 2 to 1 replicas"]
    assert not (tmp_path / "run" / "state" / "replica-1" / "3" / "shard-2").exists()
    run(job, tmp_path / "again", increments=3)
    assert run(job, tmp_path / "again") == found


class Stranger:
    """Somebody else whose work takes processors."""

    def here(self) -> None:
        """Return once it has it."""


@pytest.mark.chaos
def test_a_range_takes_replicas_with_all_their_shards(small_job: Callable[..., Job], tmp_path: Path) -> None:
    """A replica joins once there is room for all of its shards; where one of them is lost for good, it leaves."""
    assert ray.cluster_resources()["CPU"] == 4  # type: ignore[no-untyped-call]
    stranger = ray.remote(num_cpus=1)(Stranger)
    strangers: list[Any] = [stranger.remote()]
    ray.get(strangers[0].here.remote())
    settings = ["stream.every=4", "cluster.timeout=3"]
    job = job_of(small_job, "cluster.replicas='1..2'", *settings)
    together, killed = 0, False
    with RunDirectory.create(tmp_path / "run", job.toml(), "cluster") as directory:
        engine = ClusterEngine(job, tmp_path / "run")

        def on_progress(progress: Progress) -> None:
            nonlocal together, killed
            together += len(engine.participants) == 2
            if progress.rows == 20:
                ray.kill(strangers.pop())
            if together == 3 and not killed:  # another stranger waits for a place
                strangers.append(stranger.remote())
                os.kill(engine.processes[3], signal.SIGKILL)
                killed = True

        try:
            Loop(job, engine, directory, on_progress).run()
            log, sha256 = engine.told()["replicas"], model_sha256(engine.weights())
        finally:
            engine.close()
            for one in strangers:
                ray.kill(one)
        told = [event["kind"] for event in directory.table("events").to_pylist()]
    assert [count for _, count in log] == [1, 2, 1]
    assert sorted(told) == ["members", "members", "worker lost"]
    assert rows_learned(tmp_path / "run") == list(range(470))
    assert run(job_of(small_job, f"cluster.replicas={log}", *settings), tmp_path / "again") == sha256
