"""Transformers adapted by peft learn and merge between clients as they do in one process."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("flwr.app")

from federated.engine import FederatedEngine
from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.registry import RunDirectory
from tests.support.federated_runs import finish
from tests.support.in_process_grid import InProcessGrid

pytestmark = [
    pytest.mark.flower,
    pytest.mark.text,
    pytest.mark.skipif(find_spec("peft") is None, reason="needs incr[text]"),
]

JOB = """
[stream]
path = "texts.parquet"
every = 32
[features]
label = "topic"
numeric = ["tokens"]
classes = [0, 1]
[model]
factory = "incr_core.models.adapt:bert"
arguments = { vocabulary = 50, layers = 1 }
[[model.adapt]]
name = "NAME"
[learner]
objective = "multiclass"
batch_size = 8
[federated]
clients = "CLIENTS"
"""


def job(folder: Path, name: str, clients: str) -> Job:
    ids = torch.randint(2, 50, (64, 6), generator=torch.Generator().manual_seed(1))
    rows = {"tokens": ids.tolist(), "topic": (ids[:, 1] % 2).tolist(), "owner": [row % 2 for row in range(64)]}
    pq.write_table(pa.table(rows), folder / "texts.parquet")
    (folder / "job.toml").write_text(JOB.replace("NAME", name).replace("CLIENTS", clients))
    return Job.read(folder / "job.toml").resolved()


@pytest.mark.parametrize("name", ["prompt", "peft_lora"])
def test_law_3_one_client_equals_one_process(tmp_path: Path, name: str) -> None:
    alone = job(tmp_path, name, "blocks:1")
    there = finish(alone, tmp_path / "there", lambda job, folder: FederatedEngine(job, folder, InProcessGrid(1)))
    assert there.sha256 == finish(alone, tmp_path / "here", LocalEngine).sha256


def test_clients_agree_on_what_was_put_in_and_leave_the_rest(tmp_path: Path) -> None:
    two = job(tmp_path, "peft_lora", "owner")
    before = two.participant().learner
    first = {key: value.clone() for key, value in before.weights().items()}
    finish(two, tmp_path / "run", lambda job, folder: FederatedEngine(job, folder, InProcessGrid(2)))
    found, _ = RunDirectory.open(tmp_path / "run").load()
    moved = {key.removeprefix("model.") for key, value in found.items() if not torch.equal(value, first[key])}
    assert moved == set(before.context.names)
