"""Limits are kept by learning a sample; what is left out is in the table `dropped`, and every row is in one state."""

from __future__ import annotations

from pathlib import Path

import pytest

from incr_core.commands.audit import audit
from incr_core.engines import LocalEngine
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.loop._limits import Limits
from incr_core.loop._loop import Loop
from incr_core.registry import Committed, RunDirectory
from incr_core.runs import Run
from tests.support.federated_runs import finish, people
from tests.support.poisoned import BY_DAY, DAY, flipped, job, stream, timed

HOURLY = "limits.rows_per_hour=5"
"""120 of the 300 rows of a day."""


def by_day(folder: Path, *settings: str, days: int = 6) -> Job:
    return job(folder / "days", timed(stream(flipped, 0, days)), *BY_DAY, "publish.gate=false", *settings)


def counted(out: Path, name: str) -> list[int]:
    table = RunDirectory.open(out).table(name)
    return [] if not table.num_rows else table["rows"].to_pylist()


@pytest.fixture(scope="module")
def hourly(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Job]:
    folder = tmp_path_factory.mktemp("limits")
    wanted = by_day(folder, HOURLY)
    finish(wanted, folder / "run", LocalEngine)
    return folder / "run", wanted


def test_no_more_rows_are_learned_than_the_stream_has_hours_for(hourly: tuple[Path, Job]) -> None:
    out, _ = hourly
    metrics = RunDirectory.open(out).table("metrics")
    assert metrics["rows_labelled"].to_pylist() == [DAY, *[120] * 5], "how long the first one lasts is not known"
    assert metrics["rows_dropped"].to_pylist() == [None, *[180] * 5]
    assert metrics["rows_scored"].to_pylist() == [DAY] * 6, "all are predicted"
    assert sum(counted(out, "dropped")) == 5 * 180


def test_every_row_is_learned_or_dropped(hourly: tuple[Path, Job]) -> None:
    found = audit(hourly[0])
    assert not found.violations
    assert found.states.states == {
        "learned": DAY + 600, "dropped": 900, "quarantined": 0, "duplicate": 0, "erased": 0, "pending": 0
    }  # fmt: skip


def test_it_is_told(hourly: tuple[Path, Job]) -> None:
    out, _ = hourly
    (event,) = RunDirectory.open(out).table("events").to_pylist()
    assert (event["kind"], event["what"], event["rows"]) == ("limit", "180 of 300 rows are above the limits", 180)


@pytest.mark.parametrize("stop", [2, 4])
def test_law_1_a_run_that_was_stopped_comes_to_the_same_bits(
    stop: int, tmp_path: Path, hourly: tuple[Path, Job]
) -> None:
    finish(hourly[1], tmp_path / "run", LocalEngine, stop_after=stop)
    again = finish(hourly[1], tmp_path / "run", LocalEngine)
    whole = finish(hourly[1], tmp_path / "whole", LocalEngine)
    assert again.sha256 == whole.sha256
    assert again.learned == whole.learned


def test_a_row_that_is_in_two_states_is_found(hourly: tuple[Path, Job], monkeypatch: pytest.MonkeyPatch) -> None:
    found = Committed.read(hourly[0])
    found.tables = {**found.tables, "dropped": found.tables["ledger"]}
    monkeypatch.setattr(Committed, "read", lambda folder: found)
    assert any("learned and dropped at once" in str(one) for one in audit(hourly[0]).violations)


def test_increments_that_take_too_long_are_sampled_and_a_resumed_run_goes_on_with_the_share(tmp_path: Path) -> None:
    slow = by_day(tmp_path, "limits.seconds=1e-6")
    finish(slow, tmp_path / "run", LocalEngine, stop_after=3)
    finish(slow, tmp_path / "run", LocalEngine)
    metrics = RunDirectory.open(tmp_path / "run").table("metrics")
    assert metrics["rows_labelled"].to_pylist() == [DAY, *[3] * 5], "a hundredth at least"
    assert not audit(tmp_path / "run").violations
    events = RunDirectory.open(tmp_path / "run").table("events").to_pylist()
    assert [event["kind"] for event in events] == ["limit"]
    fast = slow.with_settings(["limits.seconds=1000"])
    with RunDirectory.create(tmp_path / "run", fast.toml(), fast.fingerprint()) as directory:
        loop = Loop(fast, engine := LocalEngine(fast, tmp_path / "run"), directory)
        try:
            loop.learning.resume()
        finally:
            engine.close()
    limits = loop.learning.state.limits
    assert limits is not None
    assert limits.share == 0.01


def test_the_share_grows_again_where_there_is_time() -> None:
    limits = Limits(1.0)
    assert limits.took(10.0, 1000)
    shares = []
    for _ in range(5):
        limits.took(0.3 * limits.share, 100)
        shares.append(limits.share)
    assert shares == [0.2, 0.4, 0.8, 1.0, 1.0]
    assert not limits.took(0.1, 0), "an increment without rows tells nothing"


def test_without_limits_nothing_is_dropped(tmp_path: Path, table: Path) -> None:
    plain = finish(people(table), tmp_path / "plain", LocalEngine)
    limited = finish(people(table, "limits.seconds=1000"), tmp_path / "limited", LocalEngine)
    assert limited.sha256 == plain.sha256
    assert not counted(tmp_path / "limited", "dropped")
    assert "rows_dropped" not in RunDirectory.open(tmp_path / "limited").table("metrics").column_names


@pytest.mark.parametrize(("before", "after"), [([], [HOURLY]), ([HOURLY], [])])
def test_a_run_continues_when_its_job_gets_or_loses_limits(before: list[str], after: list[str], tmp_path: Path) -> None:
    finish(by_day(tmp_path, *before), tmp_path / "run", LocalEngine, stop_after=3)
    finish(by_day(tmp_path, *after), tmp_path / "run", LocalEngine)
    found = RunDirectory.open(tmp_path / "run")
    limited = [bool(rows) for rows in found.table("metrics").to_pandas()["rows_dropped"].fillna(0)]
    assert limited == ([False] * 3 + [True] * 3 if after else [False] + [True] * 2 + [False] * 3)
    told = [(event["kind"], event["action"]) for event in found.table("events").to_pylist()]
    assert told[-1] == (
        "limit",
        "all are learned" if before else "a sample is learned, the others are in the table dropped",
    )
    assert not audit(tmp_path / "run").violations


def test_rows_are_held_back_of_those_that_may_be_learned(tmp_path: Path) -> None:
    wanted = by_day(tmp_path, HOURLY, "publish.gate=true", "publish.holdout=0.25")
    finish(wanted, tmp_path / "run", LocalEngine)
    found = audit(tmp_path / "run")
    assert not found.violations
    assert found.states.states["learned"] + found.states.states["dropped"] == 6 * DAY
    # Rows held back were within the limit when they arrived, and do not count against that of the next day.
    dropped = RunDirectory.open(tmp_path / "run").table("metrics")["rows_dropped"].to_pylist()
    assert dropped[1:6] == [DAY - 5 * 24] * 5


def test_the_summary_counts_them(tmp_path: Path) -> None:
    wanted = by_day(tmp_path, HOURLY, days=3)
    run = Run(tmp_path / "run", wanted.resolved()).run()
    assert run.summary.rows_dropped == 360
    assert run.summary.rows_learned == DAY + 240


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([HOURLY, "stream.predict_at=null"], "limits.rows_per_hour: expected stream.predict_at"),
        ([HOURLY, "federated.superlink=nowhere:1"], "limits: expected none with federated.superlink"),
        (["limits.seconds=0"], "limits.seconds: expected more than 0"),
        (["limits.rows=7"], "limits.rows: unknown key"),
    ],
)
def test_what_cannot_be_is_refused_by_name(settings: list[str], message: str, table: Path) -> None:
    document = people(table).document()
    if "null" not in settings[-1]:
        document["stream"]["predict_at"] = "at"
    with pytest.raises(JobError, match=message):
        Job.from_document(document, [setting for setting in settings if "null" not in setting])


@pytest.mark.slow
def test_older_versions_lose_their_weights_where_the_directory_is_full(tmp_path: Path) -> None:
    wanted = by_day(tmp_path, "model.hidden=[256, 128]", days=12)
    plain = Run(tmp_path / "plain", wanted.resolved()).run()
    limited = Run(tmp_path / "run", wanted.with_settings(["limits.disk=0.003"]).resolved()).run()
    assert limited.summary.model_sha256 == plain.summary.model_sha256
    kept = [version["version"] for version in RunDirectory.open(limited.path).versions() if version["has_weights"]]
    assert kept[-2:] == [11, 12]
    assert len(kept) < 12
    assert RunDirectory.open(limited.path).bytes() < 3_000_000 < RunDirectory.open(plain.path).bytes()
    told = [event for event in limited.table("events").to_pylist() if event["kind"] == "limit"]
    assert told
    assert told[0]["what"] == "the run's directory has reached 0.003 GB"
    assert "older versions have lost their weights" in told[0]["action"]
    assert not audit(limited.path).violations
