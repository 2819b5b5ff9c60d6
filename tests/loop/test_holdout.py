"""Rows held back: both versions answer them before one learns them, and each is learned exactly once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from incr_core.commands.audit import audit
from incr_core.engines import LocalEngine
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.loop._gate import Gate
from incr_core.loop._newest import Newest
from incr_core.registry import RunDirectory
from incr_core.runs import Run
from tests.support.federated_runs import finish, learned_rows, people
from tests.support.poisoned import DAY, flipped, job, stream

HELD = ("publish.gate=true", "publish.holdout=0.2")


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Job]:
    folder = tmp_path_factory.mktemp("holdout")
    wanted = job(folder / "days", stream(flipped, 22, 26), "publish.holdout=0.2")
    finish(wanted, folder / "run", LocalEngine)
    return folder / "run", wanted


def gates(out: Path) -> list[dict[str, Any]]:
    return [version["gate"] for version in RunDirectory.open(out).versions()]


def test_every_row_is_learned_once_the_last_ones_after_the_end(poisoned: tuple[Path, Job]) -> None:
    out, _ = poisoned
    assert learned_rows(out) == sorted(list(range(DAY)) * 26)
    rows = RunDirectory.open(out).table("metrics")["rows_labelled"].to_pylist()
    assert rows[:2] == [240, 288], "300 less 60; 300 and 60 less 72"
    assert rows[-1] == 74
    assert RunDirectory.open(out).table("metrics")["name"][-1].as_py() == "waiting rows"
    found = audit(out)
    assert not found.violations
    assert found.states.states["learned"] == 26 * DAY


def test_the_decision_has_the_numbers_of_rows_that_neither_has_learned(poisoned: tuple[Path, Job]) -> None:
    out, _ = poisoned
    found = gates(out)
    assert "holdout" not in found[0], "there is no champion yet"
    assert "holdout" not in found[-1], "and no row is left at the end"
    first_held = found[20]
    assert not first_held["promoted"]
    # Both days are flipped: what has learned one of them is praised by the rows held back, and held by the past.
    assert first_held["holdout"]["challenger"] < first_held["holdout"]["champion"]
    clean = found[22]
    assert not clean["promoted"]
    assert clean["holdout"]["challenger"] > clean["holdout"]["champion"] + 3 * clean["holdout"]["error"]
    assert clean["why"].startswith("loss 0.7")
    assert "rows held back, where the champion has 0.3" in clean["why"]
    assert set(clean["holdout"]["metrics"]) == {"auc", "calibration_error", "brier"}
    events = RunDirectory.open(out).table("events").to_pylist()
    assert clean["why"] in {event["what"] for event in events}
    assert "on rows held back" in Run(out).report.read_text()


def test_a_healthy_stream_is_never_held(poisoned: tuple[Path, Job]) -> None:
    out, _ = poisoned
    assert all(one["promoted"] for one in gates(out)[:20])


def test_half_way_the_rows_held_back_are_pending(tmp_path: Path) -> None:
    wanted = job(tmp_path / "days", stream(flipped, 0, 4), "publish.holdout=50")
    finish(wanted, tmp_path / "run", LocalEngine, stop_after=2)
    found = audit(tmp_path / "run")
    assert not found.violations
    assert found.states.states["learned"] == 2 * DAY - 50
    assert found.states.pending["held by a participant"] == 50


@pytest.mark.parametrize("stop", [1, 3])
def test_law_1_a_run_that_was_stopped_comes_to_the_same_bits(stop: int, tmp_path: Path, table: Path) -> None:
    wanted = people(table, *HELD)
    whole = finish(wanted, tmp_path / "whole", LocalEngine)
    finish(wanted, tmp_path / "run", LocalEngine, stop_after=stop)
    again = finish(wanted, tmp_path / "run", LocalEngine)
    assert again.sha256 == whole.sha256
    assert again.learned == whole.learned == list(range(2000))


def test_what_is_asked_of_the_champion_changes_no_bit(tmp_path: Path, table: Path, monkeypatch: Any) -> None:
    wanted = people(table, *HELD)
    whole = finish(wanted, tmp_path / "whole", LocalEngine)
    monkeypatch.setattr(LocalEngine, "compare", lambda engine, champion: [])
    assert finish(wanted, tmp_path / "unasked", LocalEngine).sha256 == whole.sha256


def known(gate: Gate) -> None:
    """Let it see as many versions as it takes to know what is usual."""
    good = torch.tensor([100.0, 50, 50, 0, 1])
    for _ in range(6):
        gate.seen(10, 5.0)
        gate.verdict(good, newest=Newest(400, 0.5, 0.5, 0.01, {"calibration_error": (0.02, 0.02)}))


@pytest.mark.parametrize(
    ("newest", "why"),
    [
        (Newest(400, 0.5, 0.56, 0.01, {}), "loss 0.56 on 400 rows held back, where the champion has 0.5"),
        (Newest(400, 0.5, 0.56, 0.03, {}), ""),
        (Newest(400, 0.5, 0.51, 0.001, {}), ""),
        (Newest(400, 0.5, 0.5, 0.01, {"calibration_error": (0.02, 0.09)}), "calibration is worse: loss 0.5"),
        (Newest(100, 0.5, 0.5, 0.01, {"calibration_error": (0.02, 0.09)}), ""),
        (None, ""),
    ],
    ids=["worse", "by chance", "within the margin", "miscalibrated", "of few rows", "no rows"],
)
def test_rows_held_back_speak_against_a_version(newest: Newest | None, why: str) -> None:
    gate = Gate(0.03, 14)
    known(gate)
    found = gate.verdict(torch.tensor([100.0, 50, 50, 0, 1]), newest=newest)
    assert found.promoted == (why == "")
    assert found.why.startswith(why or "loss 0.5 on 100 past rows")
    assert bool(gate.refuses(newest)) == bool(why)


def test_a_drift_is_one_where_rows_held_back_are_answered_better() -> None:
    """And not where what arrives is merely answered better than it was."""
    gate = Gate(0.03, 1)
    known(gate)
    bad, better = torch.tensor([100.0, 50, 80, 30, 40]), Newest(400, 0.9, 0.5, 0.01, {})
    gate.seen(10, 9.0)
    assert gate.verdict(bad, newest=better).follow == "hold"
    gate.seen(10, 1.0)
    assert gate.verdict(bad, newest=Newest(400, 0.5, 0.5, 0.01, {})).follow == "hold"
    assert gate.verdict(bad, newest=better).follow == "restart"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["publish.gate=false"], "publish.holdout: expected gate = true"),
        (["publish.holdout=0.7"], "a share of the rows up to 0.5, or a whole number of rows, got 0.7"),
        (["publish.holdout=2.5"], "a whole number of rows, got 2.5"),
        (["publish.on_hold=rollback"], 'publish.holdout: expected on_hold = "go_on", got "rollback"'),
    ],
)
def test_what_cannot_be_is_refused_by_name(settings: list[str], message: str, table: Path) -> None:
    with pytest.raises(JobError, match=message):
        people(table, *HELD, *settings)
