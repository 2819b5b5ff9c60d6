"""What ends a run on a cluster from outside is told, with the version that stands; of Ray nothing reaches stdout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from incr_core.job import Job
from incr_core.registry import RunDirectory
from tests.support.made_up import made_up

pytestmark = [pytest.mark.ray, pytest.mark.slow]

Start = Callable[[Job], "subprocess.Popen[str]"]


@pytest.fixture
def long_job(small_job: Callable[..., Job], tmp_path: Path) -> Job:
    """A job of so many increments that none of these tests sees its end, however fast the machine is."""
    pq.write_table(made_up(50_000), tmp_path / "people.parquet")
    return small_job(f"stream.path={tmp_path / 'people.parquet'}", "stream.every=1")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `incr run --on cluster --json` on a Ray of its own, in a folder whose name is short enough for a socket."""
    running: list[subprocess.Popen[str]] = []

    def begin(job: Job) -> subprocess.Popen[str]:
        (tmp_path / "job.toml").write_text(job.toml())
        command = [sys.executable, "-m", "incr_core.commands.cli", "run", str(tmp_path / "job.toml"), "--on", "cluster"]
        run = subprocess.Popen(
            [*command, "--out", str(tmp_path / "run"), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(run)
        return run

    yield begin
    for run in running:
        for pid in [run.pid, *descendants(run.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.communicate()


def descendants(pid: int) -> dict[int, str]:
    """The processes below one, and their command lines."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, ahead = dict[int, str](), [pid]
    while ahead:
        above = ahead.pop()
        for child, parent in parents.items():
            if parent == above:
                ahead.append(child)
                try:
                    found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
                except OSError:
                    continue
    return found


def wait_for_version(out: Path, version: int) -> None:
    while not (out / "versions" / str(version)).exists():
        time.sleep(0.05)


def test_a_raylet_that_is_killed_ends_the_run_in_plain_words(start: Start, long_job: Job, tmp_path: Path) -> None:
    run = start(long_job)
    wait_for_version(tmp_path / "run", 3)
    [raylet] = [pid for pid, command in descendants(run.pid).items() if "raylet/raylet" in command.split(" ")[0]]
    os.kill(raylet, signal.SIGKILL)
    said, told = run.communicate(timeout=120)
    assert run.returncode == 1
    assert said == ""
    version = RunDirectory.open(tmp_path / "run").latest()
    assert f"version {version} is committed and intact; " in told
    assert "go on from it" in told or "goes on from it" in told


@pytest.mark.chaos
def test_a_killed_worker_and_a_request_to_stop_leave_nothing_on_stdout_but_the_summary(
    start: Start, long_job: Job, tmp_path: Path
) -> None:
    run = start(long_job)
    wait_for_version(tmp_path / "run", 3)
    workers = [pid for pid, command in descendants(run.pid).items() if "RayWorker" in command]
    os.kill(workers[-1], signal.SIGKILL)
    version = RunDirectory.open(tmp_path / "run").latest() or 0
    wait_for_version(tmp_path / "run", version + 3)
    run.send_signal(signal.SIGTERM)
    said, told = run.communicate(timeout=300)
    assert run.returncode == 130, told
    summary = json.loads(said)
    assert summary["events"] == {"worker lost": 1}
    assert summary["finished"] is False
    assert "stopped at version" in told
