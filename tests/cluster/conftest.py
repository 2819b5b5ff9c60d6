"""One Ray for all tests of the cluster, and a small job to run on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.session import Session
from incr_core.job import Job
from tests.conftest import ROOT, made_up
from tests.support.shards import TwoShards


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    session = Session("local", slots=4)
    yield
    session.close()


@pytest.fixture(scope="session")
def two_shards() -> Iterator[TwoShards]:
    with TwoShards() as two:
        yield two


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
            "cluster": {"timeout": 30},
        }
        return Job.from_document(document, settings).resolved()

    return make
