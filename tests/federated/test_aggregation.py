"""Hostile clients in a run: what they do to the mean, and not to robust aggregations."""

from __future__ import annotations

from pathlib import Path

import pytest

from incr_core.errors import JobError
from incr_core.job import Job
from tests.support.federated_runs import finish, people
from tests.support.hostile_grid import HostileGrid
from tests.support.in_process_grid import on

pytestmark = pytest.mark.flower


def ten_clients(table: Path, aggregation: str) -> Job:
    settings = ["stream.every=500", "model.dropout=0.0", "strategy=[]", "federated.clients=blocks:10"]
    return people(table, *settings, f"federated.aggregation={aggregation}")


def test_two_hostile_clients_of_ten_cost_a_robust_aggregation_little(table: Path, tmp_path: Path) -> None:
    clean = finish(ten_clients(table, "mean"), tmp_path / "clean", on(HostileGrid(10, 0)))
    spoiled = finish(ten_clients(table, "mean"), tmp_path / "spoiled", on(HostileGrid(10, 2)))
    assert spoiled.score < clean.score - 0.1
    for name in ("trimmed_mean", "krum"):
        robust = finish(ten_clients(table, name), tmp_path / name, on(HostileGrid(10, 2)))
        assert robust.score > clean.score - 0.03, name
        assert robust.learned == list(range(2000))


def test_an_aggregation_has_arguments_and_a_name_that_is_known(table: Path) -> None:
    job = ten_clients(table, "{name='krum', share=0.1, keep=3}")
    assert vars(job.aggregation()) == {"share": 0.1, "keep": 3}
    with pytest.raises(
        JobError, match=r"federated.aggregation.name: expected an aggregation, got 'medain'; did you mean"
    ):
        ten_clients(table, "medain")
    with pytest.raises(JobError, match=r"aggregation.share: expected a number from 0 to below 0.5, got 0.7"):
        ten_clients(table, "{name='trimmed_mean', share=0.7}").aggregation()
