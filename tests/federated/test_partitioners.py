"""Who gets which rows of one table: shares by closed form, alike for whoever reads, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from federated._client_names import clients_of
from federated._simulated_client import Client
from incr_core.data.timeline import ByDraw, ByTime
from incr_core.errors import JobError
from incr_core.job import Job
from tests.support.federated_runs import finish, people
from tests.support.in_process_grid import InProcessGrid, on

pytestmark = pytest.mark.flower

LABELS = ("small", "medium", "large")
ROWS = 30_000


def sized(table: Path, clients: str, *settings: str) -> Job:
    """A job of three classes."""
    classes = ['learner.objective="multiclass"', 'features.label="size"', f"features.classes={list(LABELS)}"]
    return people(table, *classes, f'federated.clients="{clients}"', "strategy=[]", *settings)


def counts(clients: list[Client], start: int = 0) -> np.ndarray:
    """How many of many rows each client has of each label, (clients, labels)."""
    codes = np.arange(ROWS) % len(LABELS)
    rows, ids = pa.table({"size": np.array(LABELS)[codes]}), np.arange(start, start + ROWS)
    found = []
    for client in clients:
        assert isinstance(client.partition, ByDraw)
        found.append(np.bincount(codes[client.partition.mask(rows, ids)], minlength=len(LABELS)))
    return np.array(found)


def shares(clients: list[Client]) -> np.ndarray:
    """The share of each client in each label, (clients, labels)."""
    part = clients[0].partition
    assert isinstance(part, ByDraw)
    return np.stack([part.shares(label) for label in LABELS], axis=1)


@pytest.mark.parametrize("spec", ["iid:5", "dirichlet:5:0.5", "labels:6:2", "shards:6:2", "quantity:5:0.5"])
def test_rows_are_drawn_by_the_clients_shares(table: Path, spec: str) -> None:
    """Within five standard deviations, every row to one client."""
    clients = clients_of(sized(table, spec))
    found, wanted, each = counts(clients), shares(clients), ROWS / len(LABELS)
    np.testing.assert_allclose(wanted.sum(0), 1.0)
    assert (found.sum(0) == each).all()
    assert (abs(found - each * wanted) <= 5 * np.sqrt(each * wanted * (1 - wanted)) + 1e-9).all()
    assert [client.name for client in clients] == [f"{spec.partition(':')[0]}-{i}" for i in range(len(clients))]
    assert [Client.from_document(client.document()) for client in clients] == clients


def test_shares_are_as_their_names_say(table: Path) -> None:
    assert (shares(clients_of(sized(table, "iid:4"))) == 0.25).all()
    labels = shares(clients_of(sized(table, "labels:6:2")))
    assert ((labels > 0).sum(1) == 2).all()
    np.testing.assert_allclose(labels[labels > 0], 0.25)  # 12 labels held, 4 clients a label
    shards = shares(clients_of(sized(table, "shards:6:2"))) * 4
    np.testing.assert_allclose(shards, shards.round())  # 12 shards, 4 a label
    np.testing.assert_allclose(shards.sum(1), 2)
    quantity = shares(clients_of(sized(table, "quantity:6:0.5")))
    assert (quantity == quantity[:, :1]).all()
    assert quantity[:, 0].max() > 2 / 6


def test_a_small_alpha_gives_labels_to_few_and_a_large_one_to_all_alike(table: Path) -> None:
    few, alike = (shares(clients_of(sized(table, f"dirichlet:8:{alpha}"))) for alpha in (0.05, 1000))
    assert few.max(0).min() > 0.5
    assert abs(alike - 1 / 8).max() < 0.02
    other = shares(clients_of(sized(table, "dirichlet:8:0.05", "learner.seed=1")))
    assert not np.allclose(few, other)


def test_clients_by_time_have_spans_in_turns(table: Path) -> None:
    clients = clients_of(sized(table, "time:3:1h", "stream.predict_at=at"))
    parts = [client.partition for client in clients]
    assert parts == [ByTime(index, 3, "at", 3_600_000_000) for index in range(3)]


@pytest.mark.parametrize(
    ("spec", "settings", "why"),
    [
        ("iid:3:1", [], "expected a column"),
        ("dirichlet:3", [], "expected a column"),
        ("dirichlet:3:0", [], "expected a column"),
        ("labels:3:4", [], "expected from 1 to 3 labels a client, of the labels that exist, got 4"),
        ("labels:2:1", [], "expected a client for every label, got none for "),
        ("dirichlet:50:0.00001", [], "expected that every client may get rows, got none ever for dirichlet-"),
        ("time:3:1h", [], r'expected stream.predict_at with "time:N:DURATION"'),
        ("labels:3:2", ['learner.objective="regression"', 'features.label="score"'], "one label of several classes"),
    ],
)
def test_partitions_that_cannot_be_are_refused(table: Path, spec: str, settings: list[str], why: str) -> None:
    with pytest.raises(JobError, match=why):
        clients_of(sized(table, spec, *settings))


@pytest.mark.parametrize("spec", ["dirichlet:4:0.3", "time:4:90m"])
def test_a_drawn_partition_is_the_same_for_other_workers_and_after_a_resume(
    table: Path, tmp_path: Path, spec: str
) -> None:
    at = ["stream.predict_at=at"] if spec.startswith("time") else []
    job = sized(table, spec, "federated.batch_clients=2", "model.dropout=0", *at)
    whole = finish(job, tmp_path / "whole", on(InProcessGrid(4)))
    assert whole.learned == list(range(2000))
    finish(job, tmp_path / "parts", on(InProcessGrid(4, workers=2)), stop_after=3)
    assert finish(job, tmp_path / "parts", on(InProcessGrid(4))) == whole
