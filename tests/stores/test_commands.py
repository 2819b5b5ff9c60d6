"""Runs in a store from outside, by commands of their own processes: on a cluster, asked, stopped and served."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.commands.cli import main
from incr_core.job import Job
from incr_core.runs import Run, run
from incr_core.serving import Champion
from incr_core.storage import ObjectStore
from tests.support.made_up import made_up
from tests.support.processes import kill_all_of, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]


Begin = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts `incr run` on a job in a process of its own, with more options."""
    running: list[subprocess.Popen[bytes]] = []

    def start(job: Job, *options: str) -> subprocess.Popen[bytes]:
        (tmp_path / "job.toml").write_text(job.toml())
        command = [sys.executable, "-m", "incr_core.commands.cli", "run", str(tmp_path / "job.toml"), "--quiet"]
        running.append(subprocess.Popen([*command, *options], start_new_session=True))
        return running[-1]

    yield start
    for process in running:
        kill_all_of(process)
        process.wait()


def test_a_server_answers_with_the_champion_in_the_store(place: str, small_job: Callable[..., Job]) -> None:
    there = run(small_job(), place)
    champion = Champion(place)
    rows = [{"height": 180.0, "weight": 70.0, "colour": "red"}]
    assert champion.predict(rows)["version"] == 5
    there.promote(3)
    champion.look()
    assert champion.predict(rows)["version"] == 3


def test_a_run_that_goes_on_is_told_of_and_stopped(
    place: str, small_job: Callable[..., Job], tmp_path: Path, begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(made_up(20_000), tmp_path / "people.parquet")
    job = small_job(f"stream.path={tmp_path / 'people.parquet'}", "stream.every=2")
    process = begin(job, "--out", place)
    wait_until(lambda: ObjectStore(place).exists("manifest/00000003"), process)
    assert main(["status", place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["running"].startswith(f"pid {process.pid} on ")
    assert main(["promote", place, str(Run(place).champion.number)]) == 2
    assert f"another process (pid {process.pid} on" in capsys.readouterr().err
    assert main(["stop", place]) == 0
    assert process.wait() == 130
    version = Run(place).status.version
    assert f"it stands at version {version}" in capsys.readouterr().out
    assert Run(place).summary.version == version


@pytest.mark.chaos
def test_a_cluster_goes_on_from_the_store_alone(
    place: str, small_job: Callable[..., Job], tmp_path: Path, begin: Begin
) -> None:
    """The driver is killed, with its working copy, and so are the workers, with all that they had on disk."""
    pq.write_table(made_up(470), tmp_path / "people.parquet")
    store, fs = ObjectStore(place), ObjectStore(f"{place}-data")
    fs.put("people.parquet", (tmp_path / "people.parquet").read_bytes())
    job = small_job(f"stream.path={fs.address}", "stream.every=20", "cluster.replicas=1")
    process = begin(job, "--on", "cluster", "--out", place)
    wait_until(lambda: store.exists("manifest/00000004"), process)
    kill_all_of(process)
    process.wait()
    assert begin(job, "--on", "cluster", "--out", place).wait() == 0
    here = run(job, tmp_path / "here")
    assert Run(place).summary.model_sha256 == here.summary.model_sha256
    assert main(["audit", place]) == 0
    table: pa.Table = Run(place).table("ledger")
    assert sum(table["rows"].to_pylist()) == 470
