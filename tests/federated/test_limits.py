"""Limits on the cost of an increment are kept by clients, and what they leave out is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from incr_core.commands.audit import audit
from incr_core.registry import RunDirectory
from tests.support.federated_runs import finish
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.poisoned import BY_DAY, DAY, flipped, job, stream, timed

pytestmark = pytest.mark.flower


@pytest.mark.parametrize("limit", ["seconds=1e-6", "cpu_seconds=1e-6", "memory=0.01"])
def test_clients_learn_a_sample_above_a_limit(limit: str, tmp_path: Path) -> None:
    days = job(tmp_path / "days", timed(stream(flipped, 0, 4)), *BY_DAY, f"limits.{limit}")
    finish(days, tmp_path / "run", on(InProcessGrid(2)))
    metrics = RunDirectory.open(tmp_path / "run").table("metrics")
    assert metrics["rows_labelled"].to_pylist() == [DAY, *[4] * 3], "a hundredth of each client's rows"
    assert not audit(tmp_path / "run").violations
