"""What the process of a detached loop does, and what those see who follow it: here with the engine of one process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from incr_core.commands import detached
from incr_core.commands.cli import main
from incr_core.engines import LocalEngine
from incr_core.errors import EngineError, JobError, RunDirectoryError, WorkerLost
from incr_core.job import Job
from incr_core.registry import STOP, Detached, RunDirectory, ask, asked
from incr_core.runs import Run, detach, go_on, run
from incr_core.storage import Lock


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run directory whose loop was started and has not begun."""
    Detached("f00d", "on a Ray").write(tmp_path / "run")
    return tmp_path / "run"


def told(out: Path) -> Detached:
    found = Detached.read(out)
    assert found is not None
    return found


def fails(monkeypatch: pytest.MonkeyPatch, error: BaseException, times: int = 1, stop: Path | None = None) -> None:
    """The engine raises this, in its second increment, so many times; `stop`: asked to stop then."""
    learn, seen = LocalEngine.learn, list[int]()

    def learned(self: LocalEngine, *arguments: object) -> object:
        seen.append(1)
        if len(seen) >= 2 and times > len(seen) - 2:
            if stop is not None:
                ask(stop, STOP)
            raise error
        return learn(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalEngine, "learn", learned)


@pytest.mark.slow
def test_it_learns_and_ends_and_whoever_follows_is_told(
    small_job: Callable[..., Job], out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert go_on(small_job(), out, "local", "f00d")
    assert told(out).ended == "finished"
    assert main(["attach", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["model_sha256"] == run(small_job(), tmp_path / "undisturbed").summary.model_sha256
    assert go_on(small_job(), out, "local", "f00d")  # all is done
    assert told(out).starts == 1


@pytest.mark.slow
def test_a_process_that_is_lost_is_followed_by_one_that_goes_on(
    small_job: Callable[..., Job], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an engine runs on may be gone for one process and be there for the next."""
    fails(monkeypatch, EngineError("ray: expected a node, got none"))
    assert not go_on(small_job(), out, "local", "f00d")
    lost = told(out)
    assert (lost.goes_on, lost.starts, lost.error) == (True, 1, "ray: expected a node, got none")
    assert go_on(small_job(), out, "local", "f00d")
    assert (told(out).ended, told(out).starts, told(out).in_vain) == ("finished", 2, 0)
    summary = Run(out).summary
    assert summary.model_sha256 == run(small_job(), tmp_path / "undisturbed").summary.model_sha256
    assert summary.events == {"worker lost": 1}
    [event] = RunDirectory.open(out).table("events").to_pylist()
    assert event["what"] == f"local: the process of the loop, pid {lost.pid} on {lost.host}, was lost"
    assert event["action"].startswith("replaced; learning continued after ")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (JobError("stream: expected rows, got none"), 2, "stream: expected rows, got none"),
        (WorkerLost("cluster: replica 1 died; version 1 is intact"), 1, "cluster: replica 1 died; version 1 is intact"),
        (ValueError("a model\nof one's own"), 1, "of one's own"),
    ],
)
def test_an_error_of_the_job_ends_it_and_is_not_retried(
    error: Exception,
    code: int,
    said: str,
    small_job: Callable[..., Job],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fails(monkeypatch, error)
    assert go_on(small_job(), out, "local", "f00d")
    assert told(out).ended == "failed"
    assert main(["attach", str(out)]) == code
    assert capsys.readouterr().err.strip().endswith(said)


def test_what_is_lost_again_and_again_ends(
    small_job: Callable[..., Job], out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(monkeypatch, EngineError("ray: expected a node, got none"), times=9)
    job = small_job("cluster.max_failures=2", "publish.every=100")
    assert [go_on(job, out, "local", "f00d") for _ in range(4)] == [False, False, False, True]
    assert main(["attach", str(out)]) == 1
    assert (
        "on a Ray: the process of the loop was lost 3 times in a row without a commit, the last one by: ray: expected "
        "a node, got none; nothing is committed yet"
    ) in capsys.readouterr().err


def test_one_that_is_asked_to_stop_ends_with_a_commit_and_one_that_is_ended_is_replaced(
    small_job: Callable[..., Job], out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(monkeypatch, KeyboardInterrupt())
    assert not go_on(small_job(), out, "local", "f00d")  # by who shuts down its host
    fails(monkeypatch, KeyboardInterrupt(), stop=out)
    assert go_on(small_job(), out, "local", "f00d")
    assert told(out).ended == "stopped"
    assert main(["attach", str(out)]) == 130
    assert "stopped" in capsys.readouterr().err


def test_one_that_is_asked_to_stop_while_it_has_no_process_ends_when_it_has(
    small_job: Callable[..., Job], out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(monkeypatch, EngineError("ray: expected a node, got none"))
    assert not go_on(small_job(), out, "local", "f00d")
    assert main(["status", str(out)]) == 0
    assert "without a process, until another one is started" in capsys.readouterr().out
    with pytest.raises(RunDirectoryError, match=r"expected the run \(on a Ray\) to end within 0.1 s"):
        Run(out).stop(timeout=0.1)
    assert asked(out, STOP)
    assert go_on(small_job(), out, "local", "f00d")
    assert told(out).ended == "stopped"
    assert RunDirectory.open(out).latest() == 1
    assert main(["attach", str(out)]) == 130
    assert "committed versions are intact" in capsys.readouterr().err


def test_whoever_follows_a_run_without_a_process_is_told_and_may_leave(
    small_job: Callable[..., Job], out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(monkeypatch, EngineError("ray: expected a node, got none"))
    assert not go_on(small_job(), out, "local", "f00d")

    def leave(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as leaving:
        leaving.setattr(time, "sleep", leave)
        assert main(["attach", str(out)]) == 130
    assert f"the run goes on; follow it again with: incr attach {out}" in capsys.readouterr().err
    assert told(out).goes_on
    monkeypatch.setattr(detached, "SLOW", 0.0)
    monkeypatch.setattr(detached, "PATIENCE", 0.5)
    assert main(["attach", str(out)]) == 1
    said = capsys.readouterr().err
    assert said.count("waiting for Ray to start another process of the loop, on a Ray") == 1
    assert "expected a process to hold the run, on a Ray, got none for 0.5 s" in said


def test_whoever_takes_the_run_has_it(
    small_job: Callable[..., Job], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, EngineError("ray: expected a node, got none"))
    assert not go_on(small_job(), out, "local", "f00d")
    replace(told(out), pid=1).write(out)
    run(small_job(), out)
    assert Detached.read(out) is None
    assert go_on(small_job(), out, "local", "f00d")
    assert Detached.read(out) is None


def test_what_cannot_be_detached_or_followed_is_refused(
    small_job: Callable[..., Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(JobError, match=r"--detach: expected --on cluster, .*got --on local"):
        detach(small_job(), tmp_path / "run", "local")
    assert not (tmp_path / "run").exists()
    run(small_job(), tmp_path / "run")
    assert main(["attach", str(tmp_path / "run")]) == 2
    assert "expected a run that was started with --detach, got none" in capsys.readouterr().err
    lock = Lock(tmp_path / "run" / ".lock")
    lock.take(lasting=True)
    with pytest.raises(RunDirectoryError, match=r"another process \(pid \d+ on .*\) is writing this run; follow it"):
        detach(small_job(), tmp_path / "run", "local")
    lock.release()


def test_a_run_in_a_store_is_not_detached(small_job: Callable[..., Job]) -> None:
    with pytest.raises(
        JobError, match="--detach: expected a folder that all nodes share, got the address memory://run"
    ):
        detach(small_job(), "memory://run", "cluster")
    assert not Path("memory:").exists()
