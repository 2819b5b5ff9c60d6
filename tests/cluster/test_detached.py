"""`incr run --on cluster --detach`: whoever started the run may go, and whoever holds it may die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from incr_core.commands.cli import main
from incr_core.job import Job
from incr_core.registry import STOP, Detached, asked, read_progress
from incr_core.runs import Run
from tests.support.cluster_runs import rows_learned, run
from tests.support.gated import Gates, fed_job
from tests.support.processes import wait_until
from tests.support.raylets import Raylets

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def ray() -> Iterator[Raylets]:
    with Raylets(cpus=3) as raylets:
        yield raylets


def detached(job: Path, out: Path, address: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "incr_core.commands.cli", "run", str(job), "--on", "cluster", "--out", str(out)]
    return subprocess.run(
        [*command, "--detach", "--set", f"cluster.address={address}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def begin(job: Job, out: Path, address: str) -> None:
    path = out.with_suffix(".toml")
    path.write_text(job.toml())
    done = detached(path, out, address)
    assert done.returncode == 0, done.stderr


def told(out: Path) -> Detached:
    found = Detached.read(out)
    assert found is not None
    return found


def exported(ray: Raylets, out: Path) -> dict[str, float]:
    """What the head exports of a run."""
    with urllib.request.urlopen(ray.metrics, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.rpartition(" ") for line in lines if f'run="{out}"' in line]
    return {name.partition("{")[0]: float(value) for name, _, value in pairs}


def kill_the_loop(out: Path) -> None:
    """End its process, and wait for another."""
    before = told(out)
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: told(out).starts > before.starts)


def test_a_detached_run_outlives_its_process_and_comes_to_the_same_bits(
    ray: Raylets, ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, path, gates = tmp_path / "run", fed_job(tmp_path), Gates(tmp_path)
    done = detached(path, out, ray.address)
    assert done.returncode == 0, done.stderr
    assert f"incr attach {out}" in done.stdout
    assert f"in the actor 'fed (run {out})'" in done.stdout

    wait_until((out / "versions" / "5").exists)
    assert main(["status", str(out), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["version"], status["rows_learned"]) == (5, 40)
    assert status["participants"] == ["replica-0", "replica-1"]
    found = dict[str, float]()
    while found.get("ray_incr_versions_total") != 5.0:
        found |= exported(ray, out)
    assert found["ray_incr_rows_learned_total"] == 40.0
    assert found["ray_incr_rows_per_second"] > 0.0
    assert found["ray_incr_seconds_exchanging_total"] > 0.0

    os.kill(told(out).pid, signal.SIGKILL)
    gates.open()

    assert main(["attach", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["rows_learned"] == 96
    assert summary["events"] == {"worker lost": 1}
    assert told(out).starts == 2
    job = Job.read(path)
    assert summary["model_sha256"] == run(job, tmp_path / "undisturbed")


@pytest.mark.chaos
def test_a_loop_that_is_killed_again_and_again_loses_nothing(ray: Raylets, ray_session: None, tmp_path: Path) -> None:
    out, path, gates = tmp_path / "run", fed_job(tmp_path, publish=2), Gates(tmp_path, closed=(1, 5, 8))
    assert detached(path, out, ray.address).returncode == 0
    for _ in range(3):
        wait_until(lambda: gates.reached)
        kill_the_loop(out)
        gates.open()
    assert main(["attach", str(out)]) == 0
    assert Run(out).summary.rows_learned == 96
    assert Run(out).summary.model_sha256 == run(Job.read(path), tmp_path / "undisturbed")


@pytest.mark.chaos
def test_a_loop_goes_on_elsewhere_when_its_node_is_lost(
    ray_session: None, small_job: Callable[..., Job], tmp_path: Path
) -> None:
    job, out = small_job("stream.every=2"), tmp_path / "run"
    with Raylets(cpus=0) as ray:
        nodes = [ray.join(cpus=2), ray.join(cpus=2)]
        begin(job, out, ray.address)
        wait_until((out / "versions" / "3").exists)
        while (node := ray.node_of(told(out).pid)) not in nodes:  # on the head, which must stay
            kill_the_loop(out)
        ray.kill(node)
        assert main(["attach", str(out)]) == 0
    assert rows_learned(out) == list(range(470))
    assert Run(out).summary.model_sha256 == run(job, tmp_path / "undisturbed")


@pytest.mark.chaos
def test_a_detached_run_stops_with_a_commit_and_goes_on(
    ray: Raylets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, path, gates = tmp_path / "run", fed_job(tmp_path, publish=100), Gates(tmp_path)
    assert detached(path, out, ray.address).returncode == 0
    again = detached(path, out, ray.address)
    assert again.returncode == 2
    assert "is writing this run; follow it (incr attach), stop it (incr stop)" in again.stderr
    wait_until(lambda: read_progress(out) != {})
    stop = Thread(target=main, args=[["stop", str(out)]])
    stop.start()
    wait_until(lambda: asked(out, STOP))
    gates.open()
    assert main(["attach", str(out)]) == 130
    stop.join()
    assert "stopped at version 1;" in capsys.readouterr().err
    assert detached(path, out, ray.address).returncode == 0
    assert main(["attach", str(out)]) == 0
    assert Run(out).summary.rows_learned == 96
    assert Run(out).summary.version == 2


@pytest.mark.chaos
def test_an_error_of_the_job_ends_the_actor(
    ray: Raylets, small_job: Callable[..., Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = {"name": "tests.support.faults:Befalls", "how": "raises", "stages": ["absorb"], "folder": str(tmp_path)}
    job, out = small_job(strategy=[{**fault, "seed": 1, "always": True}]), tmp_path / "run"
    begin(job, out, ray.address)
    assert main(["attach", str(out)]) == 1
    assert "a device has failed" in capsys.readouterr().err
    assert told(out).starts == 1


def test_a_ray_of_our_own_cannot_keep_a_run(
    small_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "job.toml").write_text(small_job().toml())
    command = ["run", str(tmp_path / "job.toml"), "--on", "cluster", "--out", str(tmp_path / "run"), "--detach"]
    assert main(command) == 2
    assert (
        "expected a Ray cluster that outlives the command, got one that the command starts; name a cluster"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
