"""Where a Ray is looked for, and what is said when it cannot be reached, started or asked any more."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster._rank import Rank
from cluster._rendezvous import Rendezvous
from cluster._shared_folder import SharedFolder
from cluster._worker import ShardWorker
from cluster._worker_messages import Setup
from incr_core.errors import EngineError
from incr_core.job import Job
from tests.support.repository import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.flower]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    pq.write_table(pa.table({"x": [0.0, 1.0], "y": [0, 1]}), tmp_path / "rows.parquet")
    (tmp_path / "job.toml").write_text(
        '[stream]\npath = "rows.parquet"\n[features]\nlabel = "y"\n[learner]\nobjective = "binary"\n'
    )
    return tmp_path / "job.toml"


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken


def run(job: Path, on: str, *settings: str, **environment: str) -> Any:
    """In a process of its own: that of the tests is on a Ray cluster, and stays there whatever the address."""
    arguments = ["run", str(job), "--on", on, "--out", str(job.parent / "run")]
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "incr_core.commands.cli",
            *arguments,
            *(part for one in settings for part in ("--set", one)),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        check=False,
    )


@pytest.mark.parametrize("listens", [False, True])
def test_an_address_where_no_ray_answers_is_refused_at_once(job: Path, taken: socket.socket, listens: bool) -> None:
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    if listens:  # and hangs up, as a server of something else does that is greeted in HTTP/2
        taken.listen()
        script = (
            f"import socket; s = socket.socket(fileno={taken.fileno()})\nwhile True: s.accept()[0].send(b'HTTP/1.1')"
        )
        server = subprocess.Popen([sys.executable, "-c", script], pass_fds=[taken.fileno()])
    try:
        done = run(job, "cluster", f'cluster.address="{address}"')
    finally:
        if listens:
            server.kill()
            server.wait()
    assert done.returncode == 2
    assert f"cluster.address: expected a Ray cluster at '{address}', got: " in done.stderr
    assert ("a server answers there, but it is not Ray" if listens else "refused") in done.stderr
    assert "start one (ray start --head)" in done.stderr


@pytest.mark.parametrize("on", ["cluster", "federated"])
def test_a_ray_that_cannot_start_is_told_in_a_sentence(job: Path, on: str) -> None:
    done = run(job, on, 'federated.clients="blocks:1"', RAY_TMPDIR="/proc/none", RAY_ADDRESS="")
    assert done.returncode == 1
    *columns, told = done.stderr.splitlines()
    assert columns == ["label: y (binary, 2 classes: 0, 1)", "numbers: x"]
    assert told.startswith(
        "incr: ray: expected a Ray of our own to start on this machine, got FileNotFoundError: [Errno 2] No such file "
        "or directory: '/proc/none'; try again when the machine is less busy, look at its RAY_ settings, or"
    )


STOPPED = """
import ray, sys
from pathlib import Path
from cluster.engine import ClusterEngine
from federated.engine import FederatedEngine
from incr_core.errors import EngineError
from incr_core.job import Job

for kind in (ClusterEngine, FederatedEngine):
    job = Job.read(sys.argv[1], ["cluster.replicas=1", 'federated.clients="blocks:1"']).resolved()
    engine = kind(job, Path(sys.argv[1]).parent)
    engine.start(None)
    ray.shutdown()
    try:
        engine.receive()
    except EngineError as error:
        print(error)
    engine.close()
    assert not ray.is_initialized(), "a Ray was started anew, only to be told to end"
"""


@pytest.mark.chaos
def test_a_ray_that_was_stopped_under_an_engine_is_not_started_anew(job: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, str(job)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cluster, federated = done.stdout.splitlines()
    gone = (
        "ray: expected the Ray cluster on which the engine began, got none: something in this process has stopped it; "
        "run"
    )
    assert cluster.startswith(f"cluster: {gone}")
    assert cluster.endswith("while receiving an increment; nothing is committed yet; the same command starts over")
    assert federated.startswith(gone)


def test_a_worker_that_cannot_reach_the_driver_says_so(job: Path, taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    meeting = Rendezvous("127.0.0.1", port, timedelta(seconds=0.2))
    document = Job.read(job).resolved().model_dump()
    setup = Setup(document, {}, meeting, SharedFolder.mark(job.parent))
    with pytest.raises(
        EngineError,
        match=rf"^replica 1: expected the driver at 127\.0\.0\.1:{port} and all workers there, got .*; let the",
    ):
        ShardWorker().build(Rank(1, 2, 0, 1), "alive/1", 1, setup)
