"""A time far ahead of all others of its file is a bad row, and does not move the clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.data.times import SECOND, instant
from incr_core.errors import ArgumentError, BadRows
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.runs import run
from tests.support.streams import flights, ids, same, stream, write

pytestmark = pytest.mark.slow

LATER = instant("2096-05-01")


def with_time(table: pa.Table, column: str, row: int, time: int) -> pa.Table:
    values = table[column].cast(pa.int64()).to_pylist()
    values[row] = time
    return table.set_column(table.column_names.index(column), column, pa.array(values, pa.timestamp("us")))


@pytest.mark.parametrize("every", ["1h", 25, "file"])
@pytest.mark.parametrize(("column", "role"), [("at", "predict_at"), ("known", "label_at"), ("seen", "rate.known_at")])
def test_one_row_of_the_far_future_is_a_bad_row_and_moves_no_clock(
    tmp_path: Path, every: Any, column: str, role: str
) -> None:
    table = flights(90)
    folder = write(tmp_path, with_time(table, column, 40, LATER), 3)
    with pytest.raises(BadRows) as error:
        list(stream(folder, every=every).increments())
    place = f"stream.{role}.{column}" if "rate" not in role else f"stream.features.{column}"
    assert str(error.value) == (
        f"{place}: expected times without a leap of more than 366 days (stream.max_leap), 1 of 30 rows in "
        'part-1.parquet are far ahead of all others ("2096-05-01 00:00:00"); fix them or set on_bad_row = "quarantine"'
    )
    steps = list(stream(folder, every=every, on_bad_row="quarantine").increments())
    assert [(row.fragment, row.offset, row.column) for step in steps for row in step.bad] == [
        ("part-1.parquet", 10, column)
    ]
    assert len(ids(step.labelled for step in steps)) == 89
    assert max(step.tick.time for step in steps) < instant("2013-02-01")
    # the stream ends, resumed anywhere, as it does at once
    for stop, step in enumerate(steps):
        assert same(stream(folder, every=every, on_bad_row="quarantine").increments(step.cursor), steps[stop + 1 :])


def test_rows_of_many_years_in_one_file_are_no_leap(tmp_path: Path) -> None:
    """What counts is a gap: half of these rows are more than a year ahead of their median."""
    table = flights(90)
    years = instant("2000-01-01") + np.arange(90) * 120 * 86400 * SECOND
    for column in ("at", "known", "seen"):
        place = table.column_names.index(column)
        table = table.set_column(place, column, pa.array(years, pa.timestamp("us")))
    folder = write(tmp_path, table, 1)
    assert len(ids(step.labelled for step in stream(folder, every=10).increments())) == 90
    with pytest.raises(BadRows, match=r"leap of more than 119 days .*, 45 of 90 rows"):
        list(stream(folder, every=10, max_leap="119d").increments())
    with pytest.raises(ArgumentError, match=r"stream.max_leap: expected a duration .*, got 'soon'"):
        stream(folder, max_leap="soon")


def test_a_run_that_met_the_far_future_learns_what_comes_later_at_its_own_time(tmp_path: Path) -> None:
    table = flights(120)
    write(tmp_path / "data", with_time(table, "at", 10, LATER).slice(0, 60), 1)
    document = {
        "stream": {"path": str(tmp_path / "data"), "predict_at": "at", "label_at": "known", "every": "6h"},
        "features": {"label": "late", "numeric": ["x"], "classes": [0, 1], "on_bad_row": "quarantine"},
        "model": {"hidden": []},
        "learner": {"objective": "binary"},
    }
    job = Job.from_document(document)
    first = run(job, tmp_path / "run").summary
    pq.write_table(table.slice(60), tmp_path / "data" / "part-1.parquet")
    whole = run(job, tmp_path / "run").summary
    assert (first.rows_learned, whole.rows_learned, whole.rows_quarantined) == (59, 119, 1)
    directory = RunDirectory.open(tmp_path / "run")
    reason = "expected times without a leap of more than 366 days (stream.max_leap), got far ahead of all others"
    assert directory.table("quarantine")["reason"].to_pylist() == [reason]
    # several ticks, and not all at once in a tick of 2096
    names = directory.table("metrics")["name"].to_pylist()
    assert len(names) > 6
    assert all(name.startswith("2013") for name in names)


def in_parts(table: pa.Table, rows: int) -> list[pa.Table]:
    return [table.slice(start, rows) for start in range(0, len(table), rows)]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("every", ["1h", 25, "file"])
@pytest.mark.parametrize("column", ["at", "known", "seen"])
def test_a_row_of_the_far_future_that_comes_nearly_alone_moves_no_clock(every: Any, column: str, rows: int) -> None:
    """Of a part of one row the median is the row itself, so the rows before it count."""
    parts = in_parts(with_time(flights(90), column, 40, LATER), rows)
    steps = list(stream(lambda: parts, every=every, on_bad_row="quarantine").increments())
    assert [(row.fragment, row.offset, row.column) for step in steps for row in step.bad] == [
        (f"part {40 // rows}", 40 % rows, column)
    ]
    assert len(ids(step.labelled for step in steps)) == 89
    assert max(step.tick.time for step in steps) < instant("2013-02-01")
    for stop in range(0, len(steps), 7):  # a resumed stream decides alike
        again = stream(lambda: parts, every=every, on_bad_row="quarantine").increments(steps[stop].cursor)
        assert same(again, steps[stop + 1 :])


def after_a_gap(rows: int, gap_days: int = 800) -> pa.Table:
    """Rows of which the second half comes so many days after the first."""
    table, half = flights(2 * rows), np.arange(2 * rows) >= rows
    for column in ("at", "known", "seen"):
        values = table[column].cast(pa.int64()).to_pylist()
        moved = [
            v if v is None else v + int(late) * gap_days * 86400 * SECOND for v, late in zip(values, half, strict=True)
        ]
        table = table.set_column(table.column_names.index(column), column, pa.array(moved, pa.timestamp("us")))
    return table


@pytest.mark.parametrize(("rows", "bad"), [(1, 16), (10, 16), (32, 0)])
def test_after_a_true_gap_the_clock_moves(rows: int, bad: int) -> None:
    """Single rows are believed once most of the last 32 are of the new time; parts of 32 rows at once."""
    parts = in_parts(after_a_gap(64).select(["at", "x", "n", "carrier", "late"]), rows)
    options: dict[str, Any] = {"every": 8, "label_at": None, "rates": (), "on_bad_row": "quarantine"}
    steps = list(stream(lambda: parts, **options).increments())
    assert sum(len(step.bad) for step in steps) == bad
    assert {row.column for step in steps for row in step.bad} <= {"at"}
    assert len(ids(step.labelled for step in steps)) == 128 - bad
    assert max(step.tick.time for step in steps) > instant("2015-01-01")


FEED = """
import datetime
from pathlib import Path
import pyarrow as pa

def rows():
    for number in range(int(Path(__file__).with_name("rows").read_text())):
        at = datetime.datetime(2013, 1, 1) + datetime.timedelta(hours=number)
        at = datetime.datetime(2096, 5, 1) if number == 40 else at
        yield pa.table({"at": pa.array([at], pa.timestamp("us")), "x": [float(number % 7)], "late": [number % 2]})
"""


def feed_job(folder: Path, name: str, rows: int) -> Job:
    """A job on a function that gives single rows, so many of them."""
    folder.mkdir(exist_ok=True)
    (folder / "rows").write_text(str(rows))
    (folder / f"{name}.py").write_text(FEED)
    return Job.from_document(
        {
            "root": str(folder),
            "stream": {"path": f"{name}:rows", "predict_at": "at", "every": "6h"},
            "features": {"label": "late", "numeric": ["x"], "classes": [0, 1], "on_bad_row": "quarantine"},
            "model": {"hidden": []},
            "learner": {"objective": "binary"},
            "cluster": {"replicas": 1},
            "federated": {"clients": "blocks:1", "workers": 1},
        }
    ).resolved()


def told_of(path: Path) -> tuple[list[Any], list[str]]:
    directory = RunDirectory.open(path)
    quarantine = [(row["fragment"], row["offset"]) for row in directory.table("quarantine").to_pylist()]
    return quarantine, directory.table("metrics")["name"].to_pylist()


@pytest.mark.parametrize(
    "engine",
    ["local", pytest.param("cluster", marks=pytest.mark.ray), pytest.param("federated", marks=pytest.mark.flower)],
)
def test_every_engine_holds_the_same_row_of_a_feed_for_bad_and_a_resumed_run_too(
    tmp_path: Path, engine: str, request: pytest.FixtureRequest
) -> None:
    if engine != "local":
        request.getfixturevalue("ray_session")
    name = f"feed_of_{engine}"
    run(feed_job(tmp_path / "feed", name, 60), tmp_path / "parts", on=engine)
    job = feed_job(tmp_path / "feed", name, 96)
    whole = run(job, tmp_path / "whole", on=engine).summary
    assert (whole.rows_learned, whole.rows_quarantined) == (95, 1)
    quarantine, names = told_of(tmp_path / "whole")
    assert quarantine == [("part 40", 0)]
    assert all(name.startswith("2013") for name in names)
    parts = run(job, tmp_path / "parts", on=engine).summary
    assert (parts.model_sha256, told_of(tmp_path / "parts")) == (whole.model_sha256, (quarantine, names))
    assert whole.model_sha256 == run(job, tmp_path / "local").summary.model_sha256
