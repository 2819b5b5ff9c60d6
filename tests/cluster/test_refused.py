"""What a cluster lacks, or has otherwise than the host of the command, is said at the start, with the remedy."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from cluster import session
from cluster._node_versions import require_same, versions_here
from cluster._rank import Rank
from cluster._rendezvous import Rendezvous
from cluster._shared_folder import SharedFolder
from cluster._worker import ShardWorker
from cluster._worker_messages import Setup
from cluster.engine import ClusterEngine
from incr_core.errors import EngineError, JobError, WorkerLost
from incr_core.job import Job
from tests.support.ports import free_ports

pytestmark = [pytest.mark.ray]


@pytest.mark.parametrize("name", ["Python", "torch", "incr"])
def test_another_version_is_refused_by_name(name: str) -> None:
    with pytest.raises(JobError, match=f"cluster: expected replica 1 on .* to have {name} 0.1 of old, "):
        require_same(versions_here() | {name: "0.1 of old"}, "replica 1")


@pytest.mark.usefixtures("ray_session")
def test_a_worker_with_another_version_is_refused(
    small_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(versions_here(), "incr", "0.1 of old")
    engine = ClusterEngine(small_job("cluster.replicas=1"), tmp_path)
    try:
        with pytest.raises(
            JobError,
            match=r"cluster: expected replica 0 on \S+ to have incr 0.1 of old, .* got \d.*; install the same",
        ):
            engine.start(None)
    finally:
        engine.close()


@pytest.mark.usefixtures("ray_session")
def test_a_node_that_cannot_make_a_worker_is_refused_at_the_start(
    small_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ClusterEngine(small_job("cluster.replicas=1"), tmp_path)

    class Broken(ShardWorker):
        def __init__(self) -> None:
            raise ModuleNotFoundError("No module named 'torch'")

    monkeypatch.setattr(engine._actors, "kind", ray.remote(Broken))
    try:
        with pytest.raises(
            JobError, match=r"expected replica 0 to start, got .*No module named 'torch'; install on ever"
        ):
            engine.start(None)
    finally:
        engine.close()


def test_a_ray_of_another_python_is_refused_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray says of it, as `check_version_info` in Ray 2.55 does."""

    def refuse(**options: object) -> None:
        raise RuntimeError(
            "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.9.1\n"
            "This process on node 10.0.0.1 was started with:\n    Ray: 2.55.1\n    Python: 3.11.2\n"
        )

    monkeypatch.setattr(session, "ray", SimpleNamespace(init=refuse, shutdown=ray.shutdown, __version__="2.55.1"))
    monkeypatch.setattr(session, "_leave", lambda: None)
    with pytest.raises(
        JobError,
        match=r"expected Ray 2.55.1 and Python 3.* at 'auto', as on this host, got Ray 2.9.0 and Python 3.9.1;",
    ):
        session._attach("auto")


@pytest.mark.usefixtures("ray_session")
def test_workers_that_cannot_reach_the_meeting_place_say_which_ports_to_open(
    small_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [closed] = free_ports(1)

    def meeting(host: str, timeout: timedelta) -> tuple[Rendezvous, HashStore]:
        return Rendezvous("127.0.0.1", closed, timedelta(seconds=1)), HashStore()

    monkeypatch.setattr(Rendezvous, "open", meeting)
    engine = ClusterEngine(small_job(), tmp_path)
    try:
        said = rf"expected the driver at 127.0.0.1:{closed} and all workers there, got .*reach one another on all ports"
        with pytest.raises(EngineError, match=said) as refused:
            engine.start(None)
        assert not isinstance(refused.value, WorkerLost)
    finally:
        engine.close()


def test_a_node_that_does_not_see_the_streams_files_is_named(
    small_job: Callable[..., Job], people: Path, tmp_path: Path
) -> None:
    job = small_job("stream.every=100")
    document = job.model_dump()
    document["stream"]["path"] = str(tmp_path / "only-there" / people.name)
    meeting = Rendezvous("127.0.0.1", 1, timedelta(seconds=1))
    setup = Setup(document, {}, meeting, SharedFolder.mark(tmp_path), reads_files=True)
    said = rf"expected replica 1 on {socket.gethostname()} to read the stream's files at .*only-there.*got none there;"
    with pytest.raises(JobError, match=said):
        ShardWorker().build(Rank(1, 2, 0, 1), "alive/1", 1, setup)


@pytest.mark.parametrize("there", [False, True], ids=["no folder", "another folder"])
def test_a_node_that_does_not_reach_the_run_directory_is_named(
    there: bool, small_job: Callable[..., Job], tmp_path: Path
) -> None:
    shared = SharedFolder.mark(tmp_path / "run")
    shared.unmark()
    if there:
        SharedFolder.mark(tmp_path / "run")  # by another run, on a disk of the node's own
    else:
        shared.path.rmdir()
    setup = Setup(small_job().model_dump(), {}, Rendezvous("127.0.0.1", 1, timedelta(seconds=1)), shared)
    got = "another folder" if there else "none there"
    said = rf"expected replica 1 on {socket.gethostname()} to reach the run directory {shared.path}, got {got}; put"
    with pytest.raises(JobError, match=said):
        ShardWorker().build(Rank(1, 2, 0, 1), "alive/1", 1, setup)
