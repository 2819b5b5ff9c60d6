"""A run grows and shrinks: nothing that a replica knows is lost, and its log of members makes the same run again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from cluster.engine import ClusterEngine
from incr_core.engines import Commit
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.loop import Loop, Progress
from incr_core.registry import RunDirectory, loop_state, states_of
from incr_core.runs import erase
from incr_core.runs import run as learn
from incr_core.storage import checkpoint, model_sha256
from tests.support.cluster_runs import rows_learned, run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def job_of(small_job: Callable[..., Job], replicas: object, *settings: str) -> Job:
    replay, ewc = {"name": "replay", "capacity": 60}, {"name": "ewc", "strength": 10.0}
    return small_job(
        f"cluster.replicas={replicas}",
        "model.dropout=0.1",
        "stream.every=50",
        "outer={name='nesterov', lr=0.7, momentum=0.9}",
        *settings,
        strategy=[replay, ewc],
    )


def remembered(out: Path, version: int) -> list[list[int]]:
    """The rows in each replica's memory, as it was saved."""
    found = []
    for _, folder in states_of(out, version):
        state, _ = checkpoint.load(folder)
        found.append(sorted(state["learner"]["strategies"]["0.memory.rows"].tolist()))
    return found


def all_of(memories: list[list[int]]) -> list[int]:
    return sorted(row for memory in memories for row in memory)


def test_a_log_of_members_makes_the_same_run_again(small_job: Callable[..., Job], tmp_path: Path) -> None:
    job = job_of(small_job, [[0, 2], [3, 3], [6, 1], [8, 2]], "cluster.memory_scope=all")
    summary = learn(job, tmp_path / "run", on="cluster").summary
    assert summary.replicas == [[0, 2], [3, 3], [6, 1], [8, 2]]
    assert rows_learned(tmp_path / "run") == list(range(470))
    directory = RunDirectory.open(tmp_path / "run")
    ledger = directory.table("ledger").to_pylist()
    learned = {entry["participant"] for entry in ledger if entry["increment"] == 4}
    assert sorted(learned) == ["replica-0", "replica-1", "replica-2"]
    told = [event["what"] for event in directory.table("events").to_pylist() if event["kind"] == "members"]
    assert told == ["from 2 to 3 replicas", "from 3 to 1 replicas", "from 1 to 2 replicas"]
    assert not (tmp_path / "run" / "state" / "replica-2").exists()  # nothing stays of who has left

    again = run(job, tmp_path / "again", increments=7)
    assert run(job, tmp_path / "again") == summary.model_sha256 != again

    erased = erase(tmp_path / "run", pa.table({"fragment": ["people.parquet"] * 470, "offset": range(470)}))
    assert (erased["learned"], erased["elsewhere"]) == (470, 0)


def test_who_joins_and_who_leaves_pass_on_every_row(small_job: Callable[..., Job], tmp_path: Path) -> None:
    """Two replicas of 60 remembered rows each share them with two more, and get them back."""
    job, out = job_of(small_job, [[0, 2], [4, 4], [5, 2]], "stream.every=40"), tmp_path / "run"
    run(job, out, increments=4)
    version = RunDirectory.open(out).latest() or 0
    before = remembered(out, version)
    assert list(map(len, before)) == [60, 60]

    weights, _ = RunDirectory.open(out).load(version)
    engine = ClusterEngine(job, out)
    try:
        state = loop_state(out, version)["engine"]
        engine.start(Commit(version, weights, state))
        state = engine.save(version + 1).state
        assert engine.participants == ["replica-0", "replica-1", "replica-2", "replica-3"]
        shared = remembered(out, version + 1)
        assert list(map(len, shared)) == [30] * 4
        assert all_of(shared) == all_of(before)

        engine.start(Commit(version + 1, weights, state | {"next": 5}))
        engine.save(version + 2)
        back = remembered(out, version + 2)
        assert list(map(len, back)) == [60, 60]
        assert all_of(back) == all_of(before)
    finally:
        engine.close()


@pytest.mark.chaos
def test_a_run_goes_on_with_another_number_of_replicas(small_job: Callable[..., Job], tmp_path: Path) -> None:
    run(job_of(small_job, 1), tmp_path / "run", increments=4)
    sha256 = run(job_of(small_job, 2), tmp_path / "run")
    assert rows_learned(tmp_path / "run") == list(range(470))
    assert run(job_of(small_job, [[0, 1], [4, 2]]), tmp_path / "log") == sha256


@pytest.mark.parametrize("told", ["8..2", "0..2", "many", 0, [], [[1, 2]], [[0, 2], [0, 3]], [[0, 2], [4, 0]]])
def test_what_is_no_number_of_replicas_is_refused(small_job: Callable[..., Job], told: Any) -> None:
    with pytest.raises(JobError, match=r'cluster.replicas: expected a number, a range such as "2..8"'):
        small_job(f"cluster.replicas={told!r}")


def test_rows_that_stay_with_one_replica_keep_their_number(small_job: Callable[..., Job]) -> None:
    with pytest.raises(JobError, match=r'cluster: expected partition = "blocks" where the number'):
        small_job("cluster.replicas='1..2'", "cluster.partition=colour")


FEED = """
import pathlib, time

def rows():
    # Until the file `end` says after how many increments.
    number, end = 0, pathlib.Path(__file__).with_name("end")
    while not (end.exists() and number >= int(end.read_text())):
        yield {"x": [float(number + row) % 7 for row in range(8)], "y": [row % 2 for row in range(8)]}
        number += 1
        time.sleep(0.02)
"""


def fed_job(folder: Path, replicas: str) -> Job:
    (folder / "feed.py").write_text(FEED)
    return Job.from_document(
        {
            "root": str(folder),
            "stream": {"path": "feed:rows", "every": "file"},
            "features": {"label": "y", "numeric": ["x"], "classes": [0, 1]},
            "learner": {"objective": "binary"},
            "strategy": [{"name": "replay", "capacity": 40}],
            "cluster": {"replicas": replicas, "timeout": 3},
        }
    ).resolved()


class Stranger:
    """Somebody else whose work takes processors."""

    def here(self) -> None:
        """Return once it has it."""


@pytest.mark.chaos
def test_a_range_takes_what_the_cluster_has(tmp_path: Path) -> None:
    """A replica joins once there is room for it, and one whose place somebody else takes leaves."""
    # Not what is free now: workers of the test before may still be ending.
    total = int(ray.cluster_resources()["CPU"])  # type: ignore[no-untyped-call]
    stranger = ray.remote(num_cpus=total - 1)(Stranger)  # leaves room for one replica
    strangers: list[Any] = [stranger.remote()]
    ray.get(strangers[0].here.remote())
    end, together, killed = tmp_path / "end", 0, False
    with RunDirectory.create(tmp_path / "run", (job := fed_job(tmp_path, "1..2")).toml(), "cluster") as directory:
        engine = ClusterEngine(job, tmp_path / "run")

        def on_progress(progress: Progress) -> None:
            nonlocal together, killed
            done = progress.rows // 8
            together += len(engine.participants) == 2
            if done == 5:
                ray.kill(strangers.pop())
            if together == 3 and not killed:  # and another stranger has the place before the run looks for it
                strangers.append(stranger.remote())
                os.kill(engine.processes[1], signal.SIGKILL)
                ray.get(strangers[-1].here.remote())
                killed = True
            if killed and len(engine.participants) == 1 and not end.exists():
                end.write_text(str(done + 50))

        try:
            Loop(job, engine, directory, on_progress).run()
            log = engine.told()["replicas"]
            sha256 = model_sha256(engine.weights())
        finally:
            engine.close()
            for one in strangers:
                ray.kill(one)
        told = [event["kind"] for event in directory.table("events").to_pylist()]
    assert [count for _, count in log] == [1, 2, 1]
    assert sorted(told) == ["members", "members", "worker lost"]
    assert rows_learned(tmp_path / "run")[-1] == 7
    assert run(fed_job(tmp_path, log), tmp_path / "again") == sha256
