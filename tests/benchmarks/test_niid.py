"""NIID-Bench, in a short form: made-up images instead of Fashion-MNIST, and clients in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import niid
from incr_core.batch import Batch
from incr_core.job import Job
from tests.support.federated_runs import finish
from tests.support.in_process_grid import InProcessGrid, on

pytestmark = pytest.mark.flower


def made_up_images(rows: int, seed: int) -> Batch:
    """A block of light at a place that tells the class, in noise."""
    draw = np.random.default_rng(seed)
    labels = np.arange(rows) % 10
    pixels = draw.random((rows, 28, 28), dtype=np.float32) * 0.5
    for row, label in enumerate(labels):
        y, x = 2 + 12 * (label // 5), 1 + 5 * (label % 5)
        pixels[row, y : y + 10, x : x + 5] += 0.5
    return Batch(torch.from_numpy(pixels.reshape(rows, 784)), torch.from_numpy(labels))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(niid, "fashion_mnist", lambda source: (made_up_images(1000, 0), made_up_images(200, 1)))
    return niid.prepare(tmp_path, "dirichlet", seed=0, rounds=3, rows=None, source=tmp_path)


@pytest.mark.slow
def test_a_rule_learns_over_rounds_and_goes_on_where_it_was_stopped(place: Path, tmp_path: Path) -> None:
    document = niid.job_of(place, "scaffold", epochs=3, seed=0)
    document["learner"] |= {"optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}, "batch_size": 16}
    job = Job.from_document(document).resolved()
    finish(job, tmp_path / "run", on(InProcessGrid(10)), stop_after=1)
    found = finish(job, tmp_path / "run", on(InProcessGrid(10)))
    assert found.increments == 3
    accuracy, version = niid.best(tmp_path / "run", place / "test.parquet")
    assert accuracy > 60.0
    assert version > 1


@pytest.mark.parametrize("split", ["iid", "dirichlet", "labels"])
def test_every_row_has_a_client_and_splits_are_as_unlike_as_they_say(split: str) -> None:
    labels = np.arange(5000) % 10
    owner = niid.dealt(split, labels, np.random.default_rng(3))
    assert set(owner.tolist()) == set(range(10))
    counts = np.array([[np.sum((owner == client) & (labels == label)) for label in range(10)] for client in range(10)])
    assert counts.sum() == 5000
    if split == "labels":
        assert (counts > 0).sum(1).max() == 2
    share = counts.max(1) / counts.sum(1)
    assert {"iid": share.max() < 0.2, "dirichlet": 0.2 < share.max() < 1.0, "labels": share.min() >= 0.4}[split]
