"""Data that many tests share: a week of the real flights, and a small made-up table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from examples.flights.prepare import main as prepare
from incr_core.job import Job

ROOT = Path(__file__).parent.parent
WEEK = "2013-01-08"


running: list[pytest.Item] = []
"""The test that runs, if one does."""


def refuse_unmarked_ray(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: a test that starts Ray without the marker `ray` fails, however deep in the code it does."""
    if event == "subprocess.Popen" and "gcs_server" in str(arguments[0]):
        for test in running:
            if test.get_closest_marker("ray") is None:
                pytest.fail(f"{test.nodeid} starts Ray; mark it: pytestmark = pytest.mark.ray")


sys.addaudithook(refuse_unmarked_ray)


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
    yield
    # Whoever ran an engine took denormals for zero; hypothesis wants to draw them.
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


def made_up(rows: int, seed: int = 0) -> pa.Table:
    """A table with a little of everything: numbers, categories, three kinds of label, time."""
    draw = np.random.default_rng(seed)
    height, weight = draw.normal(170, 10, rows), draw.normal(70, 12, rows)
    colour = draw.choice(["red", "green", "blue"], rows)
    score = (height - 170) / 10 + (weight - 70) / 12 + 1.5 * (colour == "red") + draw.normal(0, 0.5, rows)
    return pa.table(
        {
            "height": height,
            "weight": weight,
            "colour": colour,
            "at": (np.datetime64("2020-01-01", "s") + np.arange(rows) * np.timedelta64(60, "s")),
            "tall": (score > 0.5).astype(np.int8),
            "size": np.where(score < -0.5, "small", np.where(score < 1.0, "medium", "large")),
            "score": 1000.0 + 250.0 * score,
        }
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The made-up table as one Parquet file of 2,000 rows."""
    path = tmp_path / "people.parquet"
    pq.write_table(made_up(2000), path)
    return path
