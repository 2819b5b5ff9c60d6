"""Data that many tests share: a week of the real flights, and a small made-up table."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, settings

from examples.flights.prepare import main as prepare
from incr_core.job import Job
from tests.support.made_up import made_up
from tests.support.repository import ROOT

WEEK = "2013-01-08"


# How long an example takes says how busy the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

running: list[pytest.Item] = []
"""The test that runs, if one does."""


starting: list[str] = []
"""The fixture that starts Ray, while it does."""


def refuse_other_rays(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: a test that starts Ray without the marker `ray`, or one of its own in this process, fails, however
    deep in the code it does.
    """
    if event == "subprocess.Popen" and "gcs_server" in str(arguments[0]):
        for test in running:
            if test.get_closest_marker("ray") is None:
                pytest.fail(f"{test.nodeid} starts Ray; mark it: pytestmark = pytest.mark.ray")
            if not starting:
                pytest.fail(f"{test.nodeid} starts a Ray of its own; let it use the fixture ray_session")


sys.addaudithook(refuse_other_rays)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put last what ends the session's Ray."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: tests on Ray wait for longer than they compute."""
    return (os.cpu_count() or 1) + 1


@cache
def shares_ray(path: str) -> bool:
    """Whether tests of a file start engines on the session's Ray: two such files at once are slower than one after the
    other.
    """
    return "ray_session" in (ROOT / path).read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep in one process what shares a Ray, and a file with its fixtures in one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # a class without types
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "ray" if shares_ray(path) else path

    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    running.append(item)
    try:
        return (yield)
    finally:
        running.clear()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    # Whoever ran an engine, a fixture of the file too, took denormals for zero; hypothesis wants to draw them.
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first week of the real flights, a Parquet file a day."""
    folder = tmp_path_factory.mktemp("flights")
    prepare(["--out", str(folder), "--until", WEEK])
    return folder


@pytest.fixture
def flights_job(flights: Path) -> Callable[..., Job]:
    """Makes a small job on that week: three days of warm start, then ticks of six hours."""

    def make(*settings: str) -> Job:
        document: dict[str, Any] = {
            "name": "flights",
            "stream": {
                "path": str(flights),
                "predict_at": "predict_at",
                "label_at": "label_at",
                "every": "6h",
                "warm_start": "2013-01-04",
            },
            "features": {
                "label": "late",
                "numeric": ["distance", "temp", "wind_speed"],
                "categorical": ["carrier", "origin", "dest"],
                "buckets": 64,
                "rate": [
                    {"by": ["origin"], "window": "6h"},
                    {"by": [], "window": "2h", "outcome": "departure_delay", "known_at": "departed_at", "prior": 0.0},
                ],
            },
            "model": {"hidden": [16], "embedding": 4, "dropout": 0.1},
            "learner": {"objective": "binary", "batch_size": 64, "optimizer": {"name": "adam", "lr": 0.003}},
            "strategy": [{"name": "replay", "capacity": 500, "ratio": 1.0}],
            "publish": {"every": 2},
        }
        return Job.from_document(document, settings).resolved()

    return make


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The made-up table as one Parquet file of 2,000 rows."""
    path = tmp_path / "people.parquet"
    pq.write_table(made_up(2000), path)
    return path


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """The one Ray that tests of this process run on."""
    from cluster.session import Session

    starting.append("ray_session")
    try:
        session = Session("local", slots=4)
    finally:
        starting.clear()
    yield
    session.close()


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("people") / "people.parquet"
    pq.write_table(made_up(470), path)
    return path


@pytest.fixture(scope="session")
def small_job(people: Path) -> Callable[..., Job]:
    """Makes a job of five increments, the last one short: `small_job("cluster.replicas=3", strategy=[...])`."""

    def make(*settings: str, strategy: Sequence[dict[str, Any]] = ()) -> Job:
        document = {
            "name": "people",
            "root": str(ROOT),
            "stream": {"path": str(people), "every": 100},
            "features": {
                "label": "tall",
                "numeric": ["height", "weight"],
                "categorical": ["colour"],
                "classes": [0, 1],
                "buckets": 16,
            },
            "model": {"hidden": [12], "embedding": 4},
            "learner": {
                "objective": "binary",
                "batch_size": 16,
                "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
            },
            "strategy": list(strategy),
            "cluster": {"timeout": 600},
        }
        return Job.from_document(document, settings).resolved()

    return make
