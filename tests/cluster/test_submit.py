"""A real Ray head with its job server: `ray job submit --working-dir . -- incr run JOB.toml --on cluster`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cluster._shared_folder import require_lasting
from incr_core.errors import JobError
from tests.support.ports import free_ports
from tests.support.repository import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.ray]

BIN = Path(sys.executable).parent
RAY = str(BIN / "ray")
JOB = """
name = "people"

[stream]
path = "people.parquet"
every = 100

[features]
label = "tall"
numeric = ["height", "weight"]
categorical = ["colour"]

[learner]
objective = "binary"

[publish]
every = 5
"""


FEED = """
from itertools import count
from pathlib import Path

def rows():
    for day in count():
        if day == 100:
            Path({mark!r}).touch()
        yield {{"x": [0.1, 0.9, 0.2, 0.8], "y": [0, 1, 0, 1]}}
"""
"""A stream without an end, which tells when it is being learned."""
FED = """
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
[publish]
every = 1000000
"""
"""Nothing is committed but where it is asked to stop."""


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """What a shell in the environment of these tests has, and nothing of a Ray that may run around it."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return found | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "300",
    }


@pytest.fixture(scope="module")
def job_server(environment: dict[str, str]) -> Iterator[str]:
    """The address of the job server of a Ray head on loopback, which ends with the test."""
    port, dashboard, agent, client = free_ports(4)
    # Not pytest's own folder: the names of Ray's sockets in it would be too long.
    folder = tempfile.mkdtemp(prefix="incr-ray-")
    options = {
        "port": port,
        "dashboard-port": dashboard,
        # Jobs are started by the node's agent. Its port has a default, which the embedded Ray of other tests may hold.
        "dashboard-agent-listen-port": agent,
        "ray-client-server-port": client,
        "dashboard-host": "127.0.0.1",
        "node-ip-address": "127.0.0.1",
        "include-dashboard": "true",
        "num-cpus": 3,
        "object-store-memory": 100_000_000,
        "temp-dir": folder,
    }
    command = [RAY, "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]
    with open(Path(folder) / "head.log", "wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_for(f"{address}/api/jobs/", head)
        wait_for(f"http://127.0.0.1:{agent}/api/local_raylet_healthz", head)
        yield address
    finally:
        # `--block` ends its daemons when it is asked to end; they share its session in case it cannot.
        head.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            head.wait(120)
        with suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str, head: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 600
    while time.monotonic() < until and head.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=60):
            return
        time.sleep(0.2)
    raise AssertionError(f"no answer from {url}; the head's exit code is {head.poll()}")


def test_a_submitted_job_runs_on_the_cluster_it_was_submitted_to(
    job_server: str, environment: dict[str, str], people: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "job", tmp_path / "run"
    folder.mkdir()
    (folder / "job.toml").write_text(JOB)
    shutil.copy(people, folder)
    submit = [RAY, "job", "submit", "--address", job_server, "--working-dir", ".", "--"]
    incr = ["incr", "run", "job.toml", "--on", "cluster", "--out", str(out)]
    done = subprocess.run(
        [*submit, *incr], cwd=folder, env=environment, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["engine"] == "cluster"
    assert summary["rows_learned"] == 470

    # A comment more is another working directory for Ray, and the same run for us.
    (folder / "job.toml").write_text(JOB + "# seen\n")
    again = subprocess.run(
        [*submit, *incr], cwd=folder, env=environment, capture_output=True, text=True, timeout=800, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    found = json.loads((out / "summary.json").read_text())
    assert {key: found[key] for key in ("version", "rows_learned", "model_sha256")} == {
        key: summary[key] for key in ("version", "rows_learned", "model_sha256")
    }


@pytest.mark.chaos
def test_a_job_that_is_stopped_commits_and_ends(job_server: str, environment: dict[str, str], tmp_path: Path) -> None:
    folder, out = tmp_path / "job", tmp_path / "run"
    folder.mkdir()
    (folder / "job.toml").write_text(FED)
    (folder / "feed.py").write_text(FEED.format(mark=str(tmp_path / "learning")))

    def ray_job(*arguments: str) -> str:
        done = subprocess.run(
            [RAY, "job", arguments[0], "--address", job_server, *arguments[1:]],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    incr = ["incr", "run", "job.toml", "--on", "cluster", "--out", str(out)]
    ray_job("submit", "--submission-id", "fed", "--no-wait", "--working-dir", ".", "--", *incr)
    while not (tmp_path / "learning").exists() and "FAILED" not in ray_job("status", "fed"):
        time.sleep(0.5)
    ray_job("stop", "fed")
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["version"], summary["finished"]) == (1, False)
    assert "incr: stopped at version 1; the same command continues from there" in ray_job("logs", "fed")


def test_a_run_in_rays_copy_of_the_working_directory_is_refused() -> None:
    copied = Path("/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_5f3c/runs/people")
    with pytest.raises(JobError, match="expected a folder that outlives the job, got one in Ray's copy"):
        require_lasting(copied)
