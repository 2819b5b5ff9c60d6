"""Simulated clients that are away, drop out or are late: the same every time, and no row is lost or learned twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from federated._availability import Availability
from federated.engine import FederatedEngine
from incr_core.commands.cli import main
from incr_core.errors import JobError
from incr_core.job import AvailabilitySection, Job
from incr_core.runs import Summary
from tests.support.federated_runs import MakeEngine, finish, people
from tests.support.federations import federation, simulated
from tests.support.in_process_grid import InProcessGrid, on

pytestmark = pytest.mark.flower

OFTEN_AWAY = "federated.availability={present = 0.6, dropout = 0.3}"


def write(path: Path, **columns: list[Any]) -> Path:
    pa.csv.write_csv(pa.table(columns), path)
    return path


def counted(make: MakeEngine, made: list[FederatedEngine]) -> MakeEngine:
    """The same engines, which can be asked afterwards."""

    def keeps(job: Job, folder: Path) -> FederatedEngine:
        engine = make(job, folder)
        assert isinstance(engine, FederatedEngine)
        made.append(engine)
        return engine

    return keeps


def clients_of(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(run / "clients").to_pylist()
    return found


def test_who_is_away_or_lost_learns_its_rows_later_and_the_same_after_a_resume(table: Path, tmp_path: Path) -> None:
    job = people(table, OFTEN_AWAY, "federated.rounds=2", "federated.fraction=0.9")
    whole = finish(job, tmp_path / "whole", on(InProcessGrid(3)))
    assert whole.learned == list(range(2000))
    assert whole.sha256 != finish(people(table, "federated.rounds=2"), tmp_path / "all", on(InProcessGrid(3))).sha256
    rows = clients_of(tmp_path / "whole")
    assert any(row["offered"] and not row["rounds"] and not row["failures"] for row in rows), "somebody was away"
    assert {row["failure"] for row in rows} >= {"", "dropped out"}
    for stop in (2, 3, 5):
        finish(job, tmp_path / "parts", on(InProcessGrid(3)), stop_after=stop)
    assert finish(job, tmp_path / "parts", on(InProcessGrid(3, workers=3, shuffle=1))) == whole
    kinds = {row["kind"]: row for row in pq.read_table(tmp_path / "whole/events").to_pylist()}
    assert kinds["clients lost"]["action"] == "their rows are pending"


def test_rows_of_one_that_never_comes_back_stay_pending_and_can_be_audited(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Green leaves for good after the second increment; red comes back once the stream has ended."""
    trace = write(
        tmp_path / "trace.csv",
        client=["colour=blue", "colour=green", "colour=red", "colour=red"],
        start=[0, 0, 0, 50],
        stop=[100, 3, 2, 51],
    )
    job = people(table, f"federated.availability='{trace}'", "publish.every=1")
    made: list[FederatedEngine] = []
    found = finish(job, tmp_path / "run", counted(on(InProcessGrid(3)), made))
    pending = made[-1].told()["rows_pending"]
    assert pending.keys() == {"colour=green"}
    numbers: dict[str, Any] = dict.fromkeys(Summary.__dataclass_fields__, 0) | {"prequential": {}}
    assert Summary.of(numbers | made[-1].told()).rows_pending == pending
    assert len(found.learned) + pending["colour=green"] == 2000
    assert "rows of 1 clients are pending" in capsys.readouterr().err
    assert main(["audit", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert f"{pending['colour=green']:,}" in told
    # The same command finds the same, and learns no more.
    again = finish(job, tmp_path / "run", on(InProcessGrid(3)))
    assert (again.sha256, again.learned) == (found.sha256, found.learned)


def test_one_that_is_too_slow_for_the_rounds_is_left_out_by_name_of_the_reason(table: Path, tmp_path: Path) -> None:
    trace = write(
        tmp_path / "trace.csv",
        client=["colour=blue", "colour=green", "colour=red"],
        start=[0, 0, 0],
        stop=[100, 100, 100],
        rows_per_second=[None, None, 2.0],
    )
    job = people(table, f"federated.availability='{trace}'", "federated.round_timeout=10s")
    made: list[FederatedEngine] = []
    found = finish(job, tmp_path / "run", counted(on(InProcessGrid(3)), made))
    pending = made[-1].told()["rows_pending"]
    assert pending.keys() == {"colour=red"}
    assert len(found.learned) + pending["colour=red"] == 2000
    late = [row for row in clients_of(tmp_path / "run") if row["failures"]]
    assert {row["client"] for row in late} == {"colour=red"}
    assert all("too late" in row["failure"] and "federated.round_timeout" in row["failure"] for row in late)


def test_fewer_than_min_clients_learn_nothing_and_the_run_ends(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federated._simulated_absences.IDLE", 5)
    trace = write(tmp_path / "trace.csv", client=["colour=blue"], start=[0], stop=[1000])
    job = people(table, f"federated.availability='{trace}'", "federated.min_clients=2")
    made: list[FederatedEngine] = []
    found = finish(job, tmp_path / "run", counted(on(InProcessGrid(3)), made))
    assert len(found.learned) == 300, "the warm start, in which all are there"
    assert sum(made[-1].told()["rows_pending"].values()) == 1700


def test_moments_are_times_where_increments_are(tmp_path: Path) -> None:
    """Ticks of four hours from 2020-01-01 on: red is away in the second, after the warm start."""
    federation(tmp_path)
    trace = write(
        tmp_path / "trace.csv",
        client=["colour=blue", "colour=green", "colour=red"],
        start=["2020-01-01", "2020-01-01", "2020-01-01T08:00:01"],
        stop=["2030-01-01", "2030-01-01", "2030-01-01"],
    )
    job = simulated(tmp_path, f"federated.availability='{trace}'").resolved()
    found = finish(job, tmp_path / "run", on(InProcessGrid(3)))
    assert len(found.learned) == 700
    red = [row for row in clients_of(tmp_path / "run") if row["client"] == "colour=red" and row["offered"]]
    assert [bool(row["rounds"]) for row in red] == [True, False, True]


@pytest.mark.parametrize(
    ("trace", "why"),
    [
        ({"client": ["colour=blue"], "start": [1]}, "expected the columns client, start, stop .* got none named stop"),
        ({"client": ["blue"], "start": [1], "stop": [2]}, "expected names of clients of the run.*got 'blue'"),
        ({"client": ["colour=blue"], "start": [2], "stop": [2]}, "expected a start before its stop, got 2 and 2"),
        ({"client": ["colour=blue"], "start": ["x"], "stop": [2]}, "expected whole numbers of increments"),
        (None, "expected a file of client, start, stop"),
    ],
)
def test_a_trace_that_cannot_be_meant_is_refused(
    table: Path, tmp_path: Path, trace: dict[str, list[Any]] | None, why: str
) -> None:
    path = tmp_path / "trace.csv"
    if trace is not None:
        write(path, **trace)
    job = people(table, f"federated.availability='{path}'")
    engine = FederatedEngine(job, tmp_path / "run", InProcessGrid(3))
    with pytest.raises(JobError, match=why):
        engine.start(None)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["federated.availability={spread = 1.0}"], "expected rows_per_second too, got 1.0 alone"),
        (["federated.availability={}", "federated.superlink=here:1"], "expected simulated clients, got owners"),
        (["federated.availability={present = 1.5}"], "federated.availability.present"),
    ],
)
def test_what_cannot_be_simulated_is_refused(table: Path, settings: list[str], why: str) -> None:
    with pytest.raises(JobError, match=why):
        people(table, *settings)


def test_chances_are_met() -> None:
    names = [f"c{number}" for number in range(50)]
    found = Availability(AvailabilitySection(present=0.7, dropout=0.2, rows_per_second=100, spread=1.0), names)
    moments = [(name, number) for name in names for number in range(100)]
    there = sum(found.is_there(name, number, number) for name, number in moments) / len(moments)
    lost = sum(bool(found.why_lost(name, number, 0, 1)) for name, number in moments) / len(moments)
    assert there == pytest.approx(0.7, abs=0.02)
    assert lost == pytest.approx(0.2, abs=0.02)
    slow = Availability(AvailabilitySection(rows_per_second=100, spread=1.0), names, timeout=1.0)
    assert 15 <= sum(bool(slow.too_late(name, 100)) for name in names) <= 35
