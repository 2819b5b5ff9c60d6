"""A node that is lost with all that it runs: the run goes on by itself on the nodes that are left, or that come."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from incr_core.job import Job
from incr_core.registry import RunDirectory
from tests.support.cluster_runs import rows_learned, run
from tests.support.gated import Gates, fed_job
from tests.support.raylets import Raylets

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.chaos]


def begin(job: Job, out: Path, address: str) -> subprocess.Popen[str]:
    out.mkdir()
    path = out.with_suffix(".toml")
    path.write_text(job.toml())
    return started(path, out, address)


def started(path: Path, out: Path, address: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "incr_core.commands.cli", "run", str(path), "--on", "cluster", "--out", str(out)]
    return subprocess.Popen(
        [*command, "--json", "--set", f"cluster.address={address}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_lost_node_is_made_up_for_by_one_that_comes(small_job: Callable[..., Job], tmp_path: Path) -> None:
    job = small_job("stream.every=2", "cluster.replicas=2", "cluster.timeout=20")
    with Raylets(cpus=1) as ray:
        lost = ray.join(cpus=1)
        run = begin(job, tmp_path / "run", ray.address)
        try:
            while not (tmp_path / "run" / "versions" / "3").exists() and run.poll() is None:
                time.sleep(0.05)
            ray.kill(lost)
            ray.join(cpus=1)
            said, told = run.communicate(timeout=500)
        finally:
            run.kill()
            run.communicate()
    assert run.returncode == 0, told
    summary = json.loads(said)
    assert summary["events"]["worker lost"] >= 1
    assert rows_learned(tmp_path / "run") == list(range(470))


def test_a_notice_of_preemption_commits_at_once_and_what_goes_is_replaced(ray_session: None, tmp_path: Path) -> None:
    out, path, gates = tmp_path / "run", fed_job(tmp_path, publish=100), Gates(tmp_path, closed=(5, 8))
    with Raylets(cpus=1) as ray:
        leaves = ray.join(cpus=1)
        learning = started(path, out, ray.address)
        try:
            while not gates.reached and learning.poll() is None:
                time.sleep(0.05)
            ray.drain(leaves)
            gates.open()
            while not (out / "versions" / "1").exists() and learning.poll() is None:
                time.sleep(0.05)
            ray.kill(leaves)
            ray.join(cpus=1)
            gates.open()
            said, told = learning.communicate(timeout=500)
        finally:
            learning.kill()
            learning.communicate()
    assert learning.returncode == 0, told
    summary = json.loads(said)
    assert summary["events"] == {"node leaving": 1, "worker lost": 1}
    [leaving, lost] = RunDirectory.open(out).table("events").to_pylist()
    assert leaving["what"] in [f"cluster: the node of replica {replica} is being drained" for replica in (0, 1)]
    assert "replica" in lost["what"]
    assert [version["increment"] for version in RunDirectory.open(out).versions()] == [leaving["increment"], 11]
    assert summary["model_sha256"] == run(Job.read(path), tmp_path / "undisturbed")
