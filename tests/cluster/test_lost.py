"""A run heals itself: whatever is lost, it comes to the bits of an undisturbed run, every row in one version."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

from cluster.engine import ClusterEngine
from incr_core.errors import WorkerLost
from incr_core.job import Job
from incr_core.registry import RunDirectory
from tests.support.cluster_runs import rows_learned, run
from tests.support.faults import STAGES

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def job_with(
    small_job: Callable[..., Job],
    folder: Path,
    how: str,
    *stages: str,
    shards: int = 1,
    settings: Sequence[str] = (),
    always: bool = False,
) -> Job:
    """A job in which something befalls replica 1, or its second shard, in its third increment.

    Who hands over weights is the first shard of replica 0.
    """
    replica, rank = (0, 0) if "hand over" in stages else (1, shards - 1)
    fault: dict[str, Any] = {"name": "tests.support.faults:Befalls", "how": how, "stages": list(stages)}
    fault |= {"folder": str(folder), "seed": replica, "rank": rank, "always": always}
    replay, ewc = {"name": "replay", "capacity": 60}, {"name": "ewc", "strength": 10.0}
    return small_job(
        "model.dropout=0.1",
        "cluster.memory_scope=all",
        "outer={name='nesterov', lr=0.7, momentum=0.9}",
        f"cluster.shards={shards}",
        *settings,
        strategy=[replay, ewc, fault],
    )


@pytest.fixture(scope="module")
def undisturbed(
    ray_session: None, small_job: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], str]:
    """The hash of the model of a run with so many shards that nothing befell."""
    hashes = dict[int, str]()

    def found(shards: int) -> str:
        if shards not in hashes:
            job = job_with(small_job, Path("nowhere"), "dies", shards=shards)
            hashes[shards] = run(job, tmp_path_factory.mktemp("undisturbed") / "run")
        return hashes[shards]

    return found


def lost_in(out: Path) -> list[str]:
    """What the events tell of lost workers."""
    return [
        event["what"] for event in RunDirectory.open(out).table("events").to_pylist() if event["kind"] == "worker lost"
    ]


CASES = [
    (how, stage, shards)
    for how in ("dies", "raises", "stops", "hangs")
    for stage in STAGES
    for shards in (1, 2)
    if (stage, shards) != ("hand over", 2)  # shards write their parts
]
SAMPLE = [("dies", "step", 1)]
"""What `make test` takes of them."""
SAID = {
    "dies": "died",
    "raises": "raised RuntimeError: a device has failed",
    "stops": "gave no sign of life for 3 s",
    "hangs": "was stuck for 3 s",
}


@pytest.mark.parametrize(
    ("how", "stage", "shards"),
    [pytest.param(*case, marks=[] if case in SAMPLE else [pytest.mark.chaos]) for case in CASES],
)
def test_whatever_befalls_a_worker_the_run_comes_to_the_same_bits(
    how: str,
    stage: str,
    shards: int,
    undisturbed: Callable[[int], str],
    small_job: Callable[..., Job],
    people: Path,
    tmp_path: Path,
) -> None:
    """A worker that has failed to join was lost before that at a step."""
    stages = ["step", "join"] if stage == "join" else [stage]
    job = job_with(small_job, tmp_path, how, *stages, shards=shards, settings=["cluster.timeout=3"])
    assert run(job, tmp_path / "run") == undisturbed(shards)
    assert all((tmp_path / stage).exists() for stage in stages)
    assert rows_learned(tmp_path / "run") == list(range(470))
    table = pq.read_table(people)
    known = max(len(table) - table[name].null_count for name in ("height", "weight"))
    weights, _ = RunDirectory.open(tmp_path / "run").load()
    [counted] = [sums[0].max() for name, sums in weights.items() if name.endswith("sums")]
    assert counted == known  # the running moments in the model have counted each row once
    told = lost_in(tmp_path / "run")
    assert len(told) == len(stages)
    assert all("replica" in one and SAID[how] in one for one in told), told


def test_a_spare_takes_the_place_and_is_made_anew_at_a_commit(small_job: Callable[..., Job], tmp_path: Path) -> None:
    engine = ClusterEngine(small_job("cluster.spares=1"), tmp_path)
    try:
        engine.start(None)
        [(_, warm)] = engine._pool._spares
        spare, before = ray.get(warm).pid, engine.processes
        os.kill(before[1], signal.SIGKILL)
        with pytest.raises(WorkerLost):
            engine.receive()
        engine.start(None)
        assert engine.processes == [before[0], spare]
        assert not engine._pool._spares
        engine.learn(engine.receive())
        engine.save(1).committed()
        assert len(engine._pool._spares) == 1
        named = [one["name"] for one in ray.util.list_named_actors(all_namespaces=True)]
        mine = sorted(name for name in named if str(tmp_path) in name)
        of_run = f"(run {tmp_path}"
        assert mine == [f"people replica 0 {of_run})", f"people spare {of_run})", f"people spare {of_run}, number 2)"]
    finally:
        engine.close()


@pytest.mark.chaos
def test_the_same_error_after_a_commit_is_another_loss(
    undisturbed: Callable[[int], str], small_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = job_with(small_job, tmp_path, "raises", "absorb", "consolidate")
    assert run(job, tmp_path / "run") == undisturbed(1)
    assert len(lost_in(tmp_path / "run")) == 2


def test_what_cannot_be_healed_ends_the_run_with_its_cause(small_job: Callable[..., Job], tmp_path: Path) -> None:
    job = job_with(small_job, tmp_path, "dies", "absorb", settings=["cluster.max_failures=2"], always=True)
    with pytest.raises(WorkerLost, match=r"replica 1 died while .*version 2 is committed and intact; the same command"):
        run(job, tmp_path / "run")
    assert rows_learned(tmp_path / "run") == list(range(200))


def test_an_error_that_comes_again_is_the_jobs_own(small_job: Callable[..., Job], tmp_path: Path) -> None:
    job = job_with(small_job, tmp_path, "raises", "absorb", always=True)
    with pytest.raises(RuntimeError, match="a device has failed"):
        run(job, tmp_path / "run")
    assert RunDirectory.open(tmp_path / "run").latest() == 2


@pytest.mark.chaos
def test_the_survivors_stay(small_job: Callable[..., Job], tmp_path: Path) -> None:
    engine = ClusterEngine(small_job(), tmp_path)
    try:
        engine.start(None)
        before = engine.processes
        arrivals = engine.receive()
        os.kill(before[1], signal.SIGKILL)
        with pytest.raises(WorkerLost, match=r"replica 1 died while learning .*nothing is committed yet"):
            engine.learn(arrivals)
        engine.start(None)
        after = engine.processes
        assert after[0] == before[0]
        assert after[1] != before[1]
        engine.learn(engine.receive())
    finally:
        engine.close()
