"""What a cluster lacks, or has otherwise than the host of the command, is said at the start, with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from cluster import session
from cluster.engine import ClusterEngine
from cluster.versions import versions_here
from cluster.worker import ShardWorker
from incr_core.errors import JobError
from incr_core.job import Job

pytestmark = [pytest.mark.ray]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", ["Python", "torch", "incr"])
def test_a_worker_with_another_version_is_refused_by_name(
    name: str, small_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(versions_here(), name, "0.1 of old")
    engine = ClusterEngine(small_job("cluster.replicas=1"), tmp_path)
    try:
        with pytest.raises(
            JobError,
            match=rf"cluster: expected replica 0 on \S+ to have {name} 0.1 of old, .* got \d.*; install the same",
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

    engine._pool._kind = ray.remote(Broken)
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
