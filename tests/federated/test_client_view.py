"""What a run tells of each client: the table of clients, and how they stand by it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from incr_core.registry import RunDirectory
from incr_core.report import standings
from incr_core.runs import Status
from tests.support.federated_runs import finish, people
from tests.support.federations import deployed
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.owners_grid import OwnersGrid
from tests.support.spoiling import SPOILT, spoiled_by

pytestmark = pytest.mark.flower

TIMES = {"version"}


def clients_of(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = RunDirectory.open(run).table("clients").to_pylist()
    return found


def test_rows_weights_and_values_of_clients_are_those_of_the_whole(table: Path, tmp_path: Path) -> None:
    finish(people(table, "federated.rounds=2"), tmp_path / "run", on(InProcessGrid(3)))
    run = RunDirectory.open(tmp_path / "run")
    metrics, rows = run.table("metrics").to_pylist(), clients_of(tmp_path / "run")
    for increment in metrics:
        mine = [row for row in rows if row["increment"] == increment["increment"]]
        for column in ("rows_arriving", "rows_labelled", "rows_scored"):
            assert sum(row[column] for row in mine) == increment[column]
        assert sum(row["weight"] for row in mine) == pytest.approx(1.0)
        # A mean lies no farther out than what it is a mean of.
        assert 0 < increment["norm"] <= max(row["norm"] for row in mine)
        assert all(row["drift"] < row["norm"] for row in mine)
        assert all(row["rounds"] == row["of_rounds"] == 2 for row in mine)
    ledger = Counter[str]()
    for entry in run.table("ledger").to_pylist():
        ledger[entry["participant"]] += entry["rows"]
    found = standings(run.table("clients"))
    assert {one.client: one.rows_learned for one in found} == ledger
    assert [one.value for one in found] == sorted(one.value for one in found)
    assert all(one.participation == 1.0 and one.failures == 0 for one in found)


def test_the_value_of_a_client_with_all_rows_is_the_runs(table: Path, tmp_path: Path) -> None:
    whole = finish(people(table, "federated.clients=blocks:1"), tmp_path / "run", on(InProcessGrid(1)))
    [only] = standings(RunDirectory.open(tmp_path / "run").table("clients"))
    assert only.value == pytest.approx(whole.score, abs=2e-3)
    assert only.weight == pytest.approx(1.0)
    assert only.drift == 0.0


def test_what_is_told_of_clients_survives_a_resume(table: Path, tmp_path: Path) -> None:
    job = people(table, "federated.fraction=0.3")
    finish(job, tmp_path / "whole", on(InProcessGrid(3)))
    for stop in (2, 5):
        finish(job, tmp_path / "parts", on(InProcessGrid(3)), stop_after=stop)
    finish(job, tmp_path / "parts", on(InProcessGrid(3)))

    def told(run: str) -> str:  # NaN is not equal to itself
        rows = clients_of(tmp_path / run)
        return json.dumps([{key: value for key, value in row.items() if key not in TIMES} for row in rows])

    assert told("parts") == told("whole")
    assert all(one.participation < 1.0 for one in standings(RunDirectory.open(tmp_path / "whole").table("clients")))


def test_failures_are_in_the_clients_own_record(
    grid: Callable[..., OwnersGrid], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lent = grid(spoils=spoiled_by(lambda weights: weights[SPOILT].add_(100.0)))
    finish(deployed("federated.min_clients=2"), tmp_path / "run", lent.engine)
    told = {one["client"]: one for one in Status.of(tmp_path / "run").clients}
    assert told["red"]["failures"] == 3
    assert "weights moved by " in told["red"]["failure"]
    assert told["red"]["rows_learned"] == told["red"]["participation"] == 0
    assert told["blue"]["failures"] == told["green"]["failures"] == 0
    assert capsys.readouterr().err.count("its answer was left out") == 2
