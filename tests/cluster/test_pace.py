"""When replicas exchange: after so many rows, which repeats, or so many seconds, which the recorded steps repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cluster.engine import ClusterEngine
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.registry import RunDirectory
from incr_core.rounds import AsRecorded, ByTime, EverySteps, Pace
from incr_core.storage import model_sha256
from tests.support.cluster_runs import Learned, learned_on_cluster, rows_learned

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

REPLAY = {"name": "replay", "capacity": 60, "ratio": 1.0}
TIMED = ["cluster.pace=time", "cluster.average_every=1s", "learner.epochs=3", "model.dropout=0.1"]


def paces_of(job: Job, steps: Sequence[int]) -> Pace:
    return job.cluster.interval.pace(steps, job.learner.batch_size * job.learner.accumulate)


@pytest.mark.chaos
def test_a_number_of_rows_is_one_of_whole_steps(small_job: Callable[..., Job], tmp_path: Path) -> None:
    rows, steps = small_job("cluster.average_every=70 rows"), small_job("cluster.average_every=2")
    assert paces_of(rows, [4, 4]) == paces_of(steps, [4, 4]) == EverySteps(2, 2)
    assert paces_of(small_job("cluster.average_every=1 row"), [4, 4]) == EverySteps(4, 1)
    assert paces_of(small_job(*TIMED), [4, 4]) == ByTime(1)
    assert paces_of(small_job(*TIMED), [4]) == EverySteps(), "nobody to exchange with"
    assert learned_on_cluster(rows, tmp_path).sha256 == learned_on_cluster(steps, tmp_path).sha256


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["average_every=5s"], 'cluster.pace: expected "time" with average_every = "5s", got "rows"; say so, '),
        (["pace=time"], 'cluster.average_every: expected a duration such as "5s" with pace = "time", got 0'),
        (["pace=time", "average_every=9 rows"], 'such as "5s" with pace = "time", got "9 rows"'),
        (["average_every='often'"], "cluster.average_every: expected a number of steps, a number of rows such as"),
        (["average_every=0 rows"], "cluster.average_every: expected a number of steps, a number of rows such as"),
        (["average_every=-1"], "cluster.average_every: expected at least 0, got -1"),
    ],
)
def test_what_cannot_be_an_interval_is_refused(settings: list[str], told: str, small_job: Callable[..., Job]) -> None:
    with pytest.raises(JobError, match=told):
        small_job(*(f"cluster.{setting}" for setting in settings))


class ShortRounds(ClusterEngine):
    """Rounds in which no machine comes to the end of an increment."""

    def _pace(self) -> Pace:
        return ByTime(0.001)


def test_law_9_the_steps_that_the_clock_allowed_repeat_a_run(small_job: Callable[..., Job], tmp_path: Path) -> None:
    job = small_job(*TIMED, "cluster.memory_scope=all", strategy=[REPLAY])
    with RunDirectory.create(tmp_path / "run", job.toml(), "cluster") as directory:
        engine = ShortRounds(job, tmp_path / "run")
        try:
            Loop(job, engine, directory).run()
            found = model_sha256(engine.weights())
        finally:
            engine.close()
        recorded: list[list[list[int]]] = directory.table("metrics")["steps"].to_pylist()
    assert rows_learned(tmp_path / "run") == list(range(470)), "each row is in one version"
    for steps, rows in zip(recorded, (100, 100, 100, 100, 70), strict=True):
        assert [sum(own) for own in steps] == [-(-rows // 32) * 3] * 2, "each replica takes all of its steps"
        assert 1 < len(steps[0]) == len(steps[1]), "in as many rounds as the other"
        assert all(any(turn) for turn in zip(*steps, strict=True)), "of which none is empty"

    class Again(ClusterEngine):
        def _pace(self) -> Pace:
            return AsRecorded(recorded.pop(0))

    assert Learned(Again, job, tmp_path / "again").sha256 == found
