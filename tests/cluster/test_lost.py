"""A run heals itself: whatever is lost, it comes to the bits of an undisturbed run, every row in one version."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.engine import ClusterEngine
from incr_core.errors import WorkerLost
from incr_core.job import Job
from incr_core.registry import RunDirectory
from tests.support.cluster_runs import rows_learned, run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def job_with(
    small_job: Callable[..., Job], marker: Path, how: str, stage: str, *settings: str, always: bool = False
) -> Job:
    """A job in which something befalls replica 1 in its third increment, unless the marker says that it has."""
    fault: dict[str, Any] = {"name": "tests.support.faults:Befalls", "how": how, "stage": stage, "marker": str(marker)}
    fault |= {"seed": 1, "increment": 2, "always": always}
    replay, ewc = {"name": "replay", "capacity": 60}, {"name": "ewc", "strength": 10.0}
    outer = "outer={name='nesterov', lr=0.7, momentum=0.9}"
    return small_job("model.dropout=0.1", outer, *settings, strategy=[replay, ewc, fault])


@pytest.fixture(scope="module")
def undisturbed(ray_session: None, small_job: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of the model of a run that nothing befell."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "marker").touch()
    return run(job_with(small_job, folder / "marker", "dies", "learning"), folder / "run")


def lost_in(out: Path) -> list[str]:
    """What the events tell of lost workers."""
    return [
        event["what"] for event in RunDirectory.open(out).table("events").to_pylist() if event["kind"] == "worker lost"
    ]


@pytest.mark.parametrize("stage", ["beginning", "learning", "consolidating", "saving"])
def test_a_killed_worker_is_replaced_and_the_run_goes_on(
    stage: str, undisturbed: str, small_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = job_with(small_job, tmp_path / "marker", "dies", stage)
    assert run(job, tmp_path / "run") == undisturbed
    assert (tmp_path / "marker").exists()
    assert rows_learned(tmp_path / "run") == list(range(470))
    [told] = lost_in(tmp_path / "run")
    assert told.startswith("cluster: replica 1 died while ")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raises", "raised RuntimeError: a device has failed"),
        pytest.param("stops", "gave no sign of life for 3 s", marks=pytest.mark.slow),
        pytest.param("hangs", "was stuck for 3 s", marks=pytest.mark.slow),
    ],
)
def test_so_is_one_that_fails_otherwise(
    how: str, said: str, undisturbed: str, small_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = job_with(small_job, tmp_path / "marker", how, "learning", "cluster.timeout=3")
    assert run(job, tmp_path / "run") == undisturbed
    assert rows_learned(tmp_path / "run") == list(range(470))
    [told] = lost_in(tmp_path / "run")
    assert f"replica 1 {said}" in told


def test_a_spare_takes_the_place(undisturbed: str, small_job: Callable[..., Job], tmp_path: Path) -> None:
    job = job_with(small_job, tmp_path / "marker", "dies", "learning", "cluster.spares=1")
    assert run(job, tmp_path / "run") == undisturbed


def test_what_cannot_be_healed_ends_the_run_with_its_cause(small_job: Callable[..., Job], tmp_path: Path) -> None:
    job = job_with(small_job, tmp_path / "marker", "dies", "learning", "cluster.max_failures=2", always=True)
    with pytest.raises(WorkerLost, match=r"replica 1 died while .*version 2 is committed and intact; run the same"):
        run(job, tmp_path / "run")
    assert rows_learned(tmp_path / "run") == list(range(200))


def test_an_error_that_comes_again_is_the_jobs_own(small_job: Callable[..., Job], tmp_path: Path) -> None:
    job = job_with(small_job, tmp_path / "marker", "raises", "learning", always=True)
    with pytest.raises(RuntimeError, match="a device has failed"):
        run(job, tmp_path / "run")
    assert RunDirectory.open(tmp_path / "run").latest() == 2


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
