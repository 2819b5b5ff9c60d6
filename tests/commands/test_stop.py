"""`incr stop` ends a run that goes on in another process, with a commit; `incr status` tells where one stands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from incr_core.commands.cli import main
from incr_core.errors import RunDirectoryError
from incr_core.job import Job
from incr_core.registry import STOP, RunDirectory, ask, asked
from incr_core.runs import Run, run
from tests.support.processes import begin, wait_until

pytestmark = pytest.mark.slow

FEED = """
import time

def rows():
    day = 0
    while True:
        yield {"x": [float(day), 1.0], "y": [0, 1]}
        day += 1
        if day == 4:
            time.sleep(3600)
"""
JOB = """
name = "fed"
[stream]
path = "feed:rows"
every = "file"
[features]
label = "y"
numeric = ["x"]
classes = [0, 1]
[learner]
objective = "binary"
"""


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a run of a function that yields four increments and then nothing for an hour."""
    (tmp_path / "feed.py").write_text(FEED)
    (tmp_path / "job.toml").write_text(JOB)
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = begin(["run", "job.toml", "--out", "run", "--json"], cwd=tmp_path, **pipes)
        started.append(process)
        wait_until((tmp_path / "run" / "versions" / "4").exists, process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def job_over(table: Path) -> Job:
    return Job.from_document(
        {
            "stream": {"path": str(table), "every": 100},
            "features": {"label": "tall", "numeric": ["height"], "classes": [0, 1]},
            "learner": {"objective": "binary"},
        }
    ).resolved()


def test_a_run_that_waits_is_stopped_with_a_commit_and_goes_on(
    waiting: Callable[[], subprocess.Popen[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process, out = waiting(), str(tmp_path / "run")
    assert main(["status", out, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["running"].startswith(f"pid {process.pid} on ")
    assert (told["name"], told["engine"], told["version"], told["rows_learned"]) == ("fed", "local", 4, 8)
    assert told["participants"] == ["all"]

    assert main(["stop", out]) == 0
    said, error = process.communicate()
    assert process.returncode == 130, error
    assert json.loads(said)["finished"] is False
    assert "it stands at version 4" in capsys.readouterr().out
    assert not asked(tmp_path / "run", STOP)

    assert main(["status", out]) == 0
    assert "fed on local: not running" in capsys.readouterr().out


def test_a_request_alone_ends_a_run_after_the_increment_at_hand(table: Path, tmp_path: Path) -> None:
    """As from another host, where no signal reaches it."""
    job = job_over(table)
    seen: list[str] = []

    def on_progress(name: str, progress: object) -> None:
        seen.append(name)
        if len(seen) == 3:
            ask(tmp_path / "run", STOP)

    done = run(job, tmp_path / "run", on_progress=on_progress)
    assert not done.summary.finished
    assert done.summary.rows_learned == 300
    assert run(job, tmp_path / "run").summary.finished  # the request of then is not one of now


def test_a_request_alone_ends_a_run_that_waits(waiting: Callable[[], subprocess.Popen[str]], tmp_path: Path) -> None:
    process = waiting()
    ask(tmp_path / "run", STOP)
    said, error = process.communicate()
    assert process.returncode == 130, error
    assert json.loads(said)["rows_learned"] == 8


def test_what_is_not_running_is_not_stopped(
    waiting: Callable[[], subprocess.Popen[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process, out = waiting(), str(tmp_path / "run")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert main(["status", out]) == 0
    assert "not running" in capsys.readouterr().out
    assert main(["stop", out]) == 2
    assert "expected a run that is being learned, got none; there is nothing to stop" in capsys.readouterr().err
    assert not asked(tmp_path / "run", STOP)
    assert RunDirectory.open(out).latest() == 4
    assert main(["stop", str(tmp_path / "nowhere")]) == 2


def test_who_only_looks_at_a_run_is_not_stopped(table: Path, tmp_path: Path) -> None:
    """Erasing, rolling back and answering hold the lock for a moment: no signal may reach who does."""
    Run(tmp_path / "run", job_over(table)).run()
    with RunDirectory.open(tmp_path / "run").alone():
        assert Run(tmp_path / "run").status.running is None
        with pytest.raises(RunDirectoryError, match="expected a run that is being learned, got none"):
            Run(tmp_path / "run").stop(timeout=1)
    assert not asked(tmp_path / "run", STOP)


def test_a_baseline_is_stopped_too(table: Path, tmp_path: Path) -> None:
    job = job_over(table).with_settings(["baselines={twin=[]}"])
    asked_for: list[str | None] = []

    def on_progress(name: str, progress: object) -> None:
        if name == "twin" and not asked_for:
            asked_for.append(Run(tmp_path / "run").status.running)
            with pytest.raises(RunDirectoryError, match=r"expected the run .* at the baseline twin"):
                Run(tmp_path / "run").stop(timeout=0)

    done = run(job, tmp_path / "run", on_progress=on_progress)
    assert str(asked_for[0]).endswith(", at the baseline twin")
    assert Run(tmp_path / "run" / "baselines" / "twin").summary.rows_learned == 100
    assert done.summary.rows_learned == 2000
