"""A tracker is given each committed increment once, in order, and costs the run nothing when it fails."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.loop import Progress
from incr_core.registry import CHANGE, ask
from incr_core.runs import Run, run
from incr_core.trackers import Commit, TrackedRun, _follower
from tests.support.processes import begin, wait_until
from tests.support.trackers import Lines, after, lines

LINES = "tests.support.trackers:Lines"


def job(table: Path, *settings: str, tracker: str = LINES) -> Job:
    document = {
        "name": "people",
        "stream": {"path": str(table), "every": 250},
        "features": {"label": "tall", "numeric": ["height", "weight"], "classes": [0, 1]},
        "model": {"hidden": [4]},
        "learner": {"objective": "binary"},
        "publish": {"every": 3, "gate": False},
        "track": {"callbacks": [tracker]},
    }
    return Job.from_document(document, settings)


WHOLE = [
    ["1", "1", "None", "0", "1", "2"],
    ["2", "2", "None", "3", "4", "5"],
    ["3", "3", "None", "6", "7"],
]
"""The commits of the job: version, champion, nothing restored, and the increments."""


def test_a_tracker_is_given_all_commits_and_the_champion(table: Path, tmp_path: Path) -> None:
    run(job(table), tmp_path / "run")
    assert lines(tmp_path / "run", "commit") == WHOLE
    assert lines(tmp_path / "run", "serve")[-1] == ["3"]
    assert lines(tmp_path / "run", "close") == [["True"]]
    ((name, baseline, identity),) = lines(tmp_path / "run", "began")
    assert (name, baseline) == ("people", "")
    assert len(identity) == 32


def test_a_run_that_goes_on_delivers_what_is_new_under_the_same_id(table: Path, tmp_path: Path) -> None:
    def dies() -> None:
        raise RuntimeError("ended")

    with pytest.raises(RuntimeError, match="ended"):
        run(job(table), tmp_path / "run", on_progress=after(5, dies))
    assert lines(tmp_path / "run", "commit") == WHOLE[:1]
    assert lines(tmp_path / "run", "close") == [["False"]]
    run(job(table), tmp_path / "run")
    run(job(table), tmp_path / "run")
    assert lines(tmp_path / "run", "commit") == WHOLE
    assert len({identity for _, _, identity in lines(tmp_path / "run", "began")}) == 1
    run(job(table), tmp_path / "other")
    assert lines(tmp_path / "other", "began")[0][2] != lines(tmp_path / "run", "began")[0][2]


class Kills(Lines):
    """Kills the process in the delivery of the second version, after it has arrived."""

    def position(self) -> int:
        return int((lines(self.run.path, "commit") or [["0"]])[-1][0])

    def follow(self, commit: Commit) -> None:
        super().follow(commit)
        if commit.version == 2:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_kill_in_a_delivery_repeats_nothing_if_the_destination_knows_its_position(
    table: Path, tmp_path: Path
) -> None:
    (tmp_path / "job.toml").write_text(job(table, tracker="tests.trackers.test_trackers:Kills").toml())
    process = begin(["run", str(tmp_path / "job.toml"), "--out", str(tmp_path / "run"), "--quiet"])
    assert process.wait() == -signal.SIGKILL
    assert lines(tmp_path / "run", "commit") == WHOLE[:2]
    assert begin(["run", str(tmp_path / "job.toml"), "--out", str(tmp_path / "run"), "--quiet"]).wait() == 0
    assert lines(tmp_path / "run", "commit") == WHOLE


class Away(Lines):
    """A destination that cannot be reached while a file is there."""

    def __init__(self, run: TrackedRun) -> None:
        if (run.path.parent / "away").exists():
            raise ConnectionError("nothing listens")
        super().__init__(run)

    def follow(self, commit: Commit) -> None:
        if (self.run.path.parent / "away").exists():
            raise TimeoutError("no answer")
        super().follow(commit)


AWAY = "tests.trackers.test_trackers:Away"


def test_a_tracker_that_cannot_be_reached_costs_nothing_and_catches_up_later(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "away").touch()
    found = run(job(table, tracker=AWAY), tmp_path / "run")
    assert found.summary.model_sha256 == run(job(table, "track={}"), tmp_path / "without").summary.model_sha256
    assert [record.getMessage() for record in caplog.records] == [
        f"track {AWAY}: version 1 cannot be delivered (ConnectionError: nothing listens); the run goes on, and "
        "delivery is tried again",
        f"track {AWAY}: versions 1 to 3 are not delivered; the same command delivers them",
    ]
    (tmp_path / "away").unlink()
    run(job(table, tracker=AWAY), tmp_path / "run")
    assert lines(tmp_path / "run", "commit") == WHOLE


def test_a_tracker_that_comes_back_catches_up_during_the_run(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def goes() -> None:
        wait_until(lambda: lines(tmp_path / "run", "serve") == [["1"]])
        (tmp_path / "away").touch()

    def returns() -> None:
        wait_until(lambda: "no answer" in caplog.text)
        (tmp_path / "away").unlink()
        wait_until(lambda: lines(tmp_path / "run", "commit") == WHOLE[:2])

    going, returning = after(4, goes), after(7, returns)

    def both(name: str, progress: Progress) -> None:
        going(name, progress)
        returning(name, progress)

    run(
        job(table, tracker=AWAY),
        tmp_path / "run",
        on_progress=both,
    )
    assert lines(tmp_path / "run", "commit") == WHOLE
    assert f"track {AWAY}: reached again; delivered up to version 2" in caplog.text
    assert lines(tmp_path / "run", "close") == [["None"], ["True"]]  # the one that failed, then the other


class Hangs(Lines):
    """Never returns from a delivery."""

    def follow(self, commit: Commit) -> None:
        threading.Event().wait()


def test_a_tracker_that_hangs_does_not_hold_the_run(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_follower, "PATIENCE", 0.5)
    found = run(job(table, tracker="tests.trackers.test_trackers:Hangs"), tmp_path / "run")
    assert found.summary.finished
    assert "versions 1 to 3 are not delivered" in caplog.text


def test_after_a_rollback_the_increments_come_again(table: Path, tmp_path: Path) -> None:
    def goes_back() -> None:
        wait_until(lambda: lines(tmp_path / "run", "serve")[-1:] == [["2"]])
        ask(tmp_path / "run", CHANGE, action="rollback", version=1, token="t")

    run(job(table), tmp_path / "run", on_progress=after(7, goes_back))
    again = [["3", "3", "1"], ["4", "4", "None", "3", "4", "5"], ["5", "5", "None", "6", "7"]]
    assert lines(tmp_path / "run", "commit") == WHOLE[:2] + again


def test_commits_that_were_rolled_back_before_their_delivery_are_left_out(table: Path, tmp_path: Path) -> None:
    run(job(table, "track={}"), tmp_path / "run")
    Run(tmp_path / "run").rollback(2)
    run(job(table), tmp_path / "run")
    expected = [*WHOLE[:2], ["4", "4", "2"], ["5", "5", "None", "6", "7"]]
    assert lines(tmp_path / "run", "commit") == expected


def test_a_champion_chosen_by_hand_is_reported(table: Path, tmp_path: Path) -> None:
    run(job(table), tmp_path / "run")
    Run(tmp_path / "run").promote(1)
    run(job(table), tmp_path / "run")
    assert lines(tmp_path / "run", "serve")[-1] == ["1"]


def test_baselines_have_trackers_of_their_own(table: Path, tmp_path: Path) -> None:
    run(job(table, 'baselines={slow=["learner.optimizer.lr=1e-5"]}'), tmp_path / "run")
    assert lines(tmp_path / "run/baselines/slow", "commit") == WHOLE
    assert lines(tmp_path / "run/baselines/slow", "began")[0][:2] == ["people", "slow"]


@pytest.mark.parametrize(
    ("track", "message"),
    [
        ({"callbacks": ["nothing:Here"]}, 'track.callbacks "nothing:Here": expected a Python module nothing, got none'),
        ({"callbacks": ["lines"]}, "track.callbacks: expected a tracker, got 'lines'"),
        ({"callbacks": [LINES, LINES]}, f"expected different trackers, got '{LINES}' twice; write it once"),
        ({"mlflow": "htp://127.0.0.1:5000"}, "expected an address such as http://127.0.0.1:5000, got another text"),
        ({"mlflow": "http://me:secret@127.0.0.1:5000"}, "expected an address without a password in it"),
        ({"mlfow": "http://127.0.0.1:5000"}, 'track.mlfow: unknown key; did you mean "mlflow"?'),
    ],
)
def test_what_cannot_be_a_tracker_is_refused(table: Path, tmp_path: Path, track: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as refused:
        run(Job.from_document({**job(table).document(), "track": track}), tmp_path / "run")
    assert message in str(refused.value)
    assert not (tmp_path / "run/versions/1").exists()
