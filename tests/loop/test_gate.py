"""The gate: a poisoned week is held back while the champion serves, a healthy stream never, and no bit changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from incr_core.commands.audit import audit
from incr_core.commands.status import described
from incr_core.data import OFFSET_BITS
from incr_core.registry import RunDirectory, loop_state
from incr_core.runs import Run, Status, open_run
from incr_core.storage import checkpoint
from tests.support.poisoned import DAY, TIMED, Table, flipped, frozen, in_another_unit, stream, timed


def learned(out: Path, days: list[Table], **publish: Any) -> Run:
    return open_run(out, stream=days, label="late", classes=[0, 1], publish={"gate": True, **publish}).run()


def held(run: Run) -> list[int]:
    return [version.number for version in run.versions if version.held]


@pytest.fixture(scope="module")
def flipped_for_two_days(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return learned(tmp_path_factory.mktemp("gate") / "run", stream(flipped, 22, 30))


@pytest.mark.parametrize("poison", [flipped, in_another_unit, frozen])
def test_a_poisoned_week_is_held_back_from_its_first_day(poison: Callable[[Table], None], tmp_path: Path) -> None:
    run = learned(tmp_path / "run", stream(poison, 22, 22))
    assert held(run) == [21, 22]
    assert run.champion.number == 20
    told = Status.of(run.path)
    assert (told.version, told.champion, told.held_in_a_row, told.events) == (22, 20, 2, {"held": 2})
    assert "past rows, compared with" in told.held
    event = run.table("events").to_pylist()[0]
    assert (event["kind"], event["action"]) == ("held", "version 21 is held, 20 continues to serve")
    assert "<small>held</small>" in run.report.read_text()


def test_what_recovers_is_promoted_and_the_poisoned_rows_are_no_past(flipped_for_two_days: Run) -> None:
    run = flipped_for_two_days
    last = held(run)[-1]
    assert held(run) == [*range(21, last + 1)]
    assert last < 30
    assert run.champion.number == 30
    gates = [manifest["gate"] for manifest in RunDirectory.open(run.path).versions()]
    assert max(gate["rows"] for gate in gates) <= 2 * 128 * np.log2(30)
    state, _ = checkpoint.load(run.path / "state" / "all" / "30")
    days = torch.cat([one["rows"]["rows"] for one in state["reference"]["past"]]) >> OFFSET_BITS
    assert {20, 21} & {*days.tolist()} == set()
    assert run.table("events")["kind"].to_pylist() == ["held"] * len(held(run)) + ["promoted"]


def test_the_status_says_that_the_gate_is_on_where_it_holds_nothing_now(
    flipped_for_two_days: Run, tmp_path: Path
) -> None:
    judges = "the gate judges each version before it is served; held so far: "
    assert f"  {judges}{len(held(flipped_for_two_days))}\n" in described(Status.of(flipped_for_two_days.path))
    days = stream(flipped, 0, 2)
    for gate, line in ((None, f"  {judges}0\n"), (False, None)):
        told = described(Status.of(learned(tmp_path / str(gate), days, gate=gate).path))
        assert judges not in told if line is None else line in told


@pytest.mark.slow
def test_what_is_held_too_often_is_a_drift(tmp_path: Path) -> None:
    run = learned(tmp_path / "run", stream(flipped, 24, 24), patience=3)
    assert held(run) == [21, 22, 23]
    event = run.table("events").to_pylist()[-1]
    assert event["kind"] == "promoted"
    assert event["what"].startswith("a drift: loss ")
    assert run.champion.number == 24


@pytest.mark.slow
def test_no_bit_depends_on_the_gate_and_none_on_where_a_run_was_resumed(
    flipped_for_two_days: Run, tmp_path: Path
) -> None:
    whole, days = flipped_for_two_days, stream(flipped, 22, 30)
    resumed = learned(tmp_path / "resumed", days[:21])
    assert resumed.champion.number == 20
    resumed = learned(tmp_path / "resumed", days)
    for one, other in zip(whole.versions, resumed.versions, strict=True):
        assert (one.model_sha256, one.held, one.champion) == (other.model_sha256, other.held, other.champion)
    gates = [loop_state(run.path, 30)["gate"] for run in (whole, resumed)]
    assert gates[0] == gates[1]
    without = learned(tmp_path / "without", days[:23], gate=False)
    assert [one.model_sha256 for one in whole.versions][:23] == [one.model_sha256 for one in without.versions]


def test_rows_to_compare_on_are_erased_with_all_others(tmp_path: Path) -> None:
    run = learned(tmp_path / "run", stream(flipped, 0, 3))
    state, _ = checkpoint.load(run.path / "state" / "all" / "3")
    row = int(state["reference"]["past"][0]["rows"]["rows"][0])
    found = run.erase(pa.table({"fragment": ["part 0"], "offset": [row]}))
    assert (found["learned"], found["compared"]) == (1, 1)
    state, _ = checkpoint.load(run.path / "state" / "all" / "3")
    assert not any((one["rows"]["rows"] == row).any() for one in state["reference"]["past"])


@pytest.mark.slow
def test_a_run_may_go_back_by_itself_and_goes_on_as_if_the_poisoned_days_had_never_been(tmp_path: Path) -> None:
    days = stream(flipped, 22, 24)
    run = learned(tmp_path / "run", days[:22], on_hold="rollback")
    assert (held(run), run.champion.number) == ([], 22)
    run = learned(tmp_path / "run", days, on_hold="rollback")
    twin = learned(tmp_path / "twin", [*days[:20], *days[22:]])
    assert run.summary.model_sha256 == twin.summary.model_sha256
    assert run.table("events")["kind"].to_pylist() == ["held", "set aside"] * 2
    assert run.table("quarantine").num_rows == 2 * DAY
    assert audit(run.path).holds


def with_rates(out: Path, days: list[Table], **publish: Any) -> Run:
    return open_run(out, stream=days, label="late", classes=[0, 1], publish={"states": 9, **publish}, **TIMED).run()


@pytest.mark.slow
def test_rates_go_back_with_the_model(tmp_path: Path) -> None:
    days = timed(stream(flipped, 22, 24))
    run = with_rates(tmp_path / "run", days, gate=True, on_hold="rollback")
    assert run.table("events")["kind"].to_pylist() == ["held", "set aside"] * 2
    twin = with_rates(tmp_path / "twin", [*days[:20], *days[22:]])
    assert run.summary.model_sha256 == twin.summary.model_sha256
    assert run.champion.history == twin.champion.history
    # A run that ends in between, wherever, and a person who does it by hand, come to the same.
    for until in (21, 22, 23, 24):
        parts = with_rates(tmp_path / "parts", days[:until], gate=True, on_hold="rollback")
    assert parts.summary.model_sha256 == twin.summary.model_sha256
    by_hand = with_rates(tmp_path / "by hand", days[:22])
    by_hand.rollback(20, drop=True)
    assert with_rates(by_hand.path, days).summary.model_sha256 == twin.summary.model_sha256


@pytest.mark.slow
def test_what_is_set_aside_too_often_is_a_drift(tmp_path: Path) -> None:
    run = learned(tmp_path / "run", stream(flipped, 24, 24), on_hold="rollback", patience=2)
    assert run.table("quarantine").num_rows == 2 * DAY
    assert run.table("events")["kind"].to_pylist() == ["held", "set aside"] * 2
    assert run.summary.rows_learned == 22 * DAY
