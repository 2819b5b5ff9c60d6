"""No client weighs more in the mean than the job lets it, however many rows it has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from incr_core.registry import RunDirectory
from incr_core.rounds import capped
from incr_core.update import Update, mean
from tests.support.federated_runs import finish, people
from tests.support.in_process_grid import InProcessGrid, on

pytestmark = pytest.mark.flower


def test_a_client_of_a_million_rows_moves_the_mean_no_farther_than_its_cap() -> None:
    updates = [Update({"w": torch.tensor([value])}, rows) for value, rows in ((0.0, 10), (0.0, 10), (1.0, 1_000_000))]
    for most, where in ((0.4, 0.4), (0.2, 1 / 3), (1.0, 1_000_000 / 1_000_020)):
        assert float(mean(capped(updates, most), {}, {"w": "mean"})["w"]) == pytest.approx(where)


def test_weights_in_a_run_are_at_most_the_cap_and_add_up(table: Path, tmp_path: Path) -> None:
    shares = "federated.clients='quantity:3:0.3'"
    free = finish(people(table, shares), tmp_path / "free", on(InProcessGrid(3)))
    held = finish(people(table, shares, "federated.max_share=0.4"), tmp_path / "held", on(InProcessGrid(3)))
    assert held.learned == free.learned
    assert held.sha256 != free.sha256
    rows = RunDirectory.open(tmp_path / "held").table("clients").to_pylist()
    for number in {row["increment"] for row in rows}:
        weights = [row["weight"] for row in rows if row["increment"] == number]
        assert sum(weights) == pytest.approx(1.0)
        assert max(weights) <= max(0.4, 1 / sum(weight > 0 for weight in weights)) + 1e-9
    most = [row["weight"] for row in RunDirectory.open(tmp_path / "free").table("clients").to_pylist()]
    assert max(most) > 0.6


def test_a_cap_that_nobody_meets_changes_no_bit(table: Path, tmp_path: Path) -> None:
    free = finish(people(table), tmp_path / "free", on(InProcessGrid(3)))
    assert finish(people(table, "federated.max_share=0.9"), tmp_path / "held", on(InProcessGrid(3))) == free
