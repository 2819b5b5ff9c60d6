"""Data that many tests share: a week of the real flights, and a small made-up table."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.file_marks import leaves_out, marks_of_file
from tests.support.repository import ROOT

# torch and what is made of it is imported by who needs it: the process that deals tests out does not.
if TYPE_CHECKING:
    from incr_core.job import Job

WEEK = "2013-01-08"

running: list[pytest.Item] = []
"""The test that runs, if one does."""


starting: list[str] = []
"""The fixture that starts Ray, while it does."""


def refuse_other_rays(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: a test that starts Ray without the marker `ray`, or one of its own in this process, fails, however
    deep in the code it does.
    """
    if event == "subprocess.Popen" and Path(os.fsdecode(arguments[0])).name == "gcs_server":
        for test in running:
            if test.get_closest_marker("ray") is None:
                pytest.fail(f"{test.nodeid} starts Ray; mark it: pytestmark = pytest.mark.ray")
            if not starting:
                pytest.fail(f"{test.nodeid} starts a Ray of its own; let it use the fixture ray_session")


sys.addaudithook(refuse_other_rays)


class RefuseWaiting(logging.Handler):
    """A test that waits ten seconds for a file that it has just written fails; those about waiting replace `sleep`."""

    sleep = staticmethod(time.sleep)

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith("stream: waiting until") and time.sleep is self.sleep:
            pytest.fail(f'{record.getMessage()}; set stream.settle = "0s"')


logging.getLogger("incr").addHandler(RefuseWaiting())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import a file, or a folder of files, of which no test is wanted: those on Ray and Flower take seconds, and
    a machine for the tests on a GPU may have neither.
    """
    wanted = config.option.markexpr
    if collection_path.is_dir():
        files = list(collection_path.rglob("test_*.py"))
        return True if files and all(leaves_out(wanted, file.read_text()) for file in files) else None
    # Examples in docstrings have no marker, so where one is named, no other file has anything of it.
    looks = collection_path.name.startswith("test_") or wanted.isidentifier()
    looks = looks and collection_path.suffix == ".py"
    return True if looks and leaves_out(wanted, collection_path.read_text()) else None


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Give the examples that hypothesis draws any time: how long one takes says how busy the machine is."""
    if isinstance(collector, pytest.Session):
        from hypothesis import HealthCheck, settings

        settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what takes longest, so that no process of tests is alone with it in the end, and last what ends the
    session's Ray.
    """
    places = [process_for(item.nodeid.partition("::")[0]) for item in items]
    seconds: Counter[str] = Counter()
    for item, place in zip(items, places, strict=True):
        slow = any(item.get_closest_marker(name) for name in ("slow", "ray"))
        seconds[place] += 20 if slow else 1  # of another unit: only their order counts
    order = {item.nodeid: (-seconds[place], place) for item, place in zip(items, places, strict=True)}
    items.sort(key=lambda item: (item.get_closest_marker("last") is not None, *order[item.nodeid]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many as there are cores; one more for tests on Ray, which wait for longer than they compute."""
    return (os.cpu_count() or 1) + ("not ray" not in config.option.markexpr)


@cache
def process_for(path: str) -> str:
    """What the files of a process of tests share: the session's Ray, on which two engines at once are slower than one
    after the other, or transformers and peft, which take seconds to import; a file that shares neither, its fixtures.
    """
    file = ROOT / path
    text = file.read_text() if file.exists() else ""
    if "ray_session" in text:
        return "ray"
    marks = marks_of_file(text)
    return "text" if "text" in marks else "gpu" if "gpu" in marks else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep in one process of tests what shares something, in the order of the tests."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # a class without types
        def _split_scope(self, nodeid: str) -> str:
            place = process_for(nodeid.partition("::")[0])
            return nodeid if place == "gpu" else place  # on a GPU tests wait for it, and may do so side by side

    config.option.loadscopereorder = False
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
    import torch

    torch.set_num_threads(1)
    # Whoever ran an engine, a fixture of the file too, took denormals for zero; hypothesis wants to draw them.
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first week of the real flights, a Parquet file a day."""
    from examples.flights.prepare import main as prepare

    folder = tmp_path_factory.mktemp("flights")
    prepare(["--out", str(folder), "--until", WEEK])
    return folder


@pytest.fixture
def flights_job(flights: Path) -> Callable[..., Job]:
    """Makes a small job on that week: three days of warm start, then ticks of six hours."""
    from incr_core.job import Job

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


def written(rows: int, folder: Path) -> Path:
    """The made-up table as a file."""
    import pyarrow.parquet as pq

    from tests.support.made_up import made_up

    path = folder / "people.parquet"
    pq.write_table(made_up(rows), path)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The made-up table as one Parquet file of 2,000 rows."""
    return written(2000, tmp_path)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """The one Ray that tests of this process run on."""
    from cluster.session import Session
    from tests.support.forked_workers import forked_workers

    with forked_workers() as python:
        starting.append("ray_session")
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "executable", python)
                session = Session("local", slots=4)
        finally:
            starting.clear()
        yield
        session.close()


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(470, tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="session")
def small_job(people: Path) -> Callable[..., Job]:
    """Makes a job of five increments, the last one short: `small_job("cluster.replicas=3", strategy=[...])`."""
    from incr_core.job import Job

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
