"""Clients that keep nothing (`federated.stateless`): what a round costs, what they keep, and what is refused."""

from __future__ import annotations

import cProfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.registry import RunDirectory
from tests.support.federated_runs import failing, finish, people

pytest.importorskip("flwr.app")

from federated._client_blocks import blocks_of
from federated.engine import FederatedEngine
from tests.support.in_process_grid import InProcessGrid

pytestmark = pytest.mark.flower

PLAIN = ("strategy=[]", "model.dropout=0", "learner.optimizer={name='sgd', lr=0.1}", "publish.every=1")
STATELESS = ("federated.stateless=true", "federated.batch_clients=4")


def engine_of(job: Job, folder: Path) -> FederatedEngine:
    return FederatedEngine(job, folder, InProcessGrid(len(blocks_of(job))))


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of forty people, whoever else is registered."""
    path, draw = tmp_path_factory.mktemp("crowd") / "crowd.parquet", np.random.default_rng(0)
    rows = 2400
    height = draw.normal(size=rows)
    table = {
        "height": height,
        "weight": draw.normal(size=rows),
        "colour": ["red"] * rows,
        "tall": (height > 0).astype(int),
        "who": np.arange(rows) % 40,
    }
    pq.write_table(pa.table(table), path)
    return path


def cost_of(crowd: Path, folder: Path, registered: int) -> tuple[int, int, int]:
    """Python calls of the increments after the second, files in the end, and bytes that went through messages."""
    job = people(crowd, *PLAIN, *STATELESS, f"federated.clients=hash:who:{registered}", "federated.clients_per_round=8")
    profile = cProfile.Profile()
    with RunDirectory.create(folder, job.toml(), job.fingerprint()) as directory:
        engine = engine_of(job, folder)
        loop = Loop(job, engine, directory)
        loop.on_progress = lambda progress: profile.enable() if loop.totals.increments == 2 else None
        loop.run()
        profile.disable()
        engine.close()
    calls = sum(entry.callcount for entry in profile.getstats())
    return calls, sum(1 for path in folder.rglob("*") if path.is_file()), loop.totals.bytes_exchanged


def test_what_a_round_costs_does_not_grow_with_the_clients_that_are_registered(crowd: Path, tmp_path: Path) -> None:
    few, many = (cost_of(crowd, tmp_path / str(count), count) for count in (100, 10_000))
    assert many[0] < 1.2 * few[0]
    assert many[1] == few[1]
    assert many[2] < 1.2 * few[2]


def test_rows_of_clients_that_are_not_drawn_are_learned_later(crowd: Path, tmp_path: Path) -> None:
    job = people(crowd, *PLAIN, *STATELESS, "federated.clients=hash:who:100", "federated.clients_per_round=5")
    result = finish(job, tmp_path / "run", engine_of)
    assert result.learned == list(range(2400))
    waited = pq.read_table(tmp_path / "run/metrics").filter(pa.compute.field("name") == "waiting rows")
    assert len(waited) > 2


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (["federated.clients=colour"], "expected numbered clients"),
        (["strategy=[{name='replay', capacity=10}]"], "strategy Replay keeps what differs between clients"),
        (["model.dropout=0.1"], "the model draws random numbers"),
    ],
)
def test_what_keeps_something_is_refused_by_name(table: Path, tmp_path: Path, settings: list[str], what: str) -> None:
    job = people(table, *PLAIN, *STATELESS, "federated.clients=hash:at:7", *settings)
    assert what in str(failing(job, tmp_path / "run", lambda job, folder: engine_of(job, folder)))


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (["federated.batch_clients=0"], "federated.stateless: expected batch_clients too"),
        (["federated.aggregation=median"], "got aggregation median"),
        (["federated.personal=['layers.2']"], "got personal"),
        (["publish.gate=true"], "got publish.gate"),
        (["learner.epochs='auto'"], 'got learner.epochs = "auto"'),
    ],
)
def test_a_job_that_asks_clients_to_keep_something_is_refused(table: Path, settings: list[str], what: str) -> None:
    with pytest.raises(JobError) as caught:
        people(table, *PLAIN, *STATELESS, "federated.clients=hash:at:7", *settings)
    assert what in str(caught.value)
