"""A lost worker ends the run within seconds, in plain words; run again, it comes to the same bits as undisturbed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.engine import ClusterEngine
from incr_core.errors import WorkerLost
from incr_core.job import Job
from tests.support.cluster_runs import rows_learned, run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


FAULTS = ["DiesLearning", "DiesConsolidating", "DiesSaving"]


def dying_job(small_job: Callable[..., Job], fault: str, marker: Path) -> Job:
    """A job whose replica 1 dies in its third increment, unless the marker says that it has."""
    dies = {"name": f"tests.support.faults:{fault}", "marker": str(marker), "seed": 1, "increment": 2}
    replay, ewc = {"name": "replay", "capacity": 60}, {"name": "ewc", "strength": 10.0}
    return small_job("model.dropout=0.1", "outer={name='nesterov', lr=0.7, momentum=0.9}", strategy=[replay, ewc, dies])


@pytest.fixture(scope="module")
def undisturbed(ray_session: None, small_job: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of the model of a run that nothing befell."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "died").touch()
    return run(dying_job(small_job, FAULTS[0], folder / "died"), folder / "run")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_killed_worker_is_told_and_the_run_goes_on(
    fault: str, undisturbed: str, small_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = dying_job(small_job, fault, tmp_path / "died")
    with pytest.raises(WorkerLost, match=r"replica 1 died while .*version 2 is committed and intact; run the same"):
        run(job, tmp_path / "run")
    assert rows_learned(tmp_path / "run") == list(range(200))

    assert run(job, tmp_path / "run") == undisturbed
    assert rows_learned(tmp_path / "run") == list(range(470))


@pytest.mark.parametrize(
    ("how", "patience"), [(signal.SIGKILL, 600), pytest.param(signal.SIGSTOP, 15, marks=pytest.mark.slow)]
)
def test_a_worker_lost_between_calls_is_noticed_by_the_next(
    how: signal.Signals, patience: int, small_job: Callable[..., Job], tmp_path: Path
) -> None:
    engine = ClusterEngine(small_job(f"cluster.timeout={patience}"), tmp_path)
    try:
        engine.start(None)
        arrivals = engine.receive()
        os.kill(engine.processes[1], how)
        said = "died" if how == signal.SIGKILL else "gave no sign of life"
        with pytest.raises(WorkerLost, match=f"replica 1 {said} while learning .*nothing is committed yet"):
            engine.learn(arrivals)
    finally:
        engine.close()
