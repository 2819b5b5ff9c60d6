"""What ends a run on a cluster from outside is told, with the version that stands; of Ray nothing reaches stdout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from incr_core.job import Job
from incr_core.registry import RunDirectory
from tests.support.made_up import made_up
from tests.support.processes import begin, descendants, kill_all_of, wait_until

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

    def on_ray(job: Job) -> subprocess.Popen[str]:
        (tmp_path / "job.toml").write_text(job.toml())
        command = ["run", str(tmp_path / "job.toml"), "--on", "cluster", "--out", str(tmp_path / "run"), "--json"]
        running.append(begin(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield on_ray
    for run in running:
        kill_all_of(run)
        run.communicate()


@pytest.mark.parametrize("daemon", ["raylet/raylet", pytest.param("gcs/gcs_server", marks=pytest.mark.chaos)])
def test_a_ray_whose_daemon_is_killed_ends_the_run_in_plain_words(
    daemon: str, start: Start, long_job: Job, tmp_path: Path
) -> None:
    """Ray itself ends a process that has not reached its GCS for a minute."""
    run = start(long_job)
    wait_until((tmp_path / "run" / "versions" / "3").exists, run)
    [killed] = [pid for pid, command in descendants(run.pid).items() if daemon in command.split(" ")[0]]
    os.kill(killed, signal.SIGKILL)
    said, told = run.communicate()
    assert run.returncode == 1
    assert said == ""
    version = RunDirectory.open(tmp_path / "run").latest()
    assert f"version {version} is committed and intact; " in told
    assert "the same command continues from it" in told


@pytest.mark.chaos
def test_a_killed_worker_and_a_request_to_stop_leave_nothing_on_stdout_but_the_summary(
    start: Start, long_job: Job, tmp_path: Path
) -> None:
    run = start(long_job)
    wait_until((tmp_path / "run" / "versions" / "3").exists, run)
    workers = [pid for pid, command in descendants(run.pid).items() if "RayWorker" in command]
    os.kill(workers[-1], signal.SIGKILL)
    version = RunDirectory.open(tmp_path / "run").latest() or 0
    wait_until((tmp_path / "run" / "versions" / str(version + 3)).exists, run)
    run.send_signal(signal.SIGTERM)
    said, told = run.communicate()
    assert run.returncode == 130, told
    summary = json.loads(said)
    assert summary["events"] == {"worker lost": 1}
    assert summary["finished"] is False
    assert "stopped at version" in told
