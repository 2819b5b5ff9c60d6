"""What a stream says of rows, files and arguments that it cannot use, and what it makes of those it can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.data import times as clock
from incr_core.data.timeline import Stream
from incr_core.errors import ArgumentError, BadRows, IncrError, StreamError
from tests.support.streams import (
    RATES,
    encoder,
    flights,
    ids,
    numeric,
    same_batch,
    stream,
    untimed,
    write,
)


def test_increments_before_a_broken_file_are_given_out(tmp_path: Path) -> None:
    folder = write(tmp_path, flights(300), 3)
    whole = (folder / "part-2.parquet").read_bytes()
    (folder / "part-2.parquet").write_bytes(whole[:200])
    increments = Stream(folder, encoder=encoder()).increments()
    assert [next(increments).tick.name, next(increments).tick.name] == ["part-0.parquet", "part-1.parquet"]
    with pytest.raises(StreamError, match=r"part-2\.parquet: expected a whole parquet file, got one that cannot"):
        next(increments)


def bad(table: pa.Table, column: str, values: list[Any]) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, pa.array(values))


def renamed(table: pa.Table, old: str, new: str) -> pa.Table:
    return table.rename_columns([new if name == old else name for name in table.column_names])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: bad(t, "x", ["1", "n/a", "2", "", "5", "n/a"]),
            'stream.features.x: expected float, 2 of 6 rows in part-1.parquet are text ("n/a"); '
            'fix them or set on_bad_row = "quarantine"',
        ),
        (
            lambda t: bad(t, "x", [0.0, float("nan"), float("inf"), 0.0, None, 0.0]),
            "stream.features.x: expected a finite number, 2 of 6 rows in part-1.parquet are NaN or infinite",
        ),
        (
            lambda t: bad(t, "x", [1e39, 0.0, 0.0, 0.0, 0.0, 0.0]),
            'stream.features.x: expected a float32, 1 of 6 rows in part-1.parquet are too large for one ("',
        ),
        (
            lambda t: bad(t, "late", [0, 1, 2, 0, 1, 1]),
            'stream.features.late: expected 0 or 1, 1 of 6 rows in part-1.parquet are something else ("2")',
        ),
        (
            lambda t: bad(t, "late", [0, None, 1, 0, 1, 1]),
            'stream.features.late: expected a label, 1 of 6 rows in part-1.parquet are missing ("null")',
        ),
        (
            lambda t: t.set_column(1, "known", pa.compute.subtract(t["known"], pa.scalar(10**12, pa.duration("us")))),
            "stream.label_at.known: expected a label time not before at, 6 of 6 rows in part-1.parquet are label times "
            "before prediction time",
        ),
        (
            lambda t: t.set_column(0, "at", pa.array(t["at"].to_numpy(), mask=np.arange(6) == 3)),
            'stream.predict_at.at: expected a time, 1 of 6 rows in part-1.parquet are null ("null")',
        ),
    ],
)
def test_bad_rows_are_named_or_quarantined(tmp_path: Path, change: Any, message: str) -> None:
    folder = write(tmp_path, flights(12), 2)
    pq.write_table(change(flights(12).slice(6)), folder / "part-1.parquet")
    with pytest.raises(BadRows) as error:
        list(stream(folder).increments())
    assert message in str(error.value)
    steps = list(stream(folder, on_bad_row="quarantine").increments())
    refused = [row for step in steps for row in step.bad]
    count = int(message.split(" of 6 rows")[0].split()[-1])
    assert len(refused) == count
    assert {row.fragment for row in refused} == {"part-1.parquet"}
    learned = ids(step.labelled for step in steps)
    assert len(learned) == 12 - count
    assert not {row.row for row in refused} & set(learned)
    # and the histories do not know them: nothing is NaN or infinite in the rates
    assert torch.isfinite(torch.cat([numeric(step.arriving)[:, 2:] for step in steps])).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: renamed(t, "x", "X"), 'part-1.parquet: expected a column "x", got'),
        (lambda t: renamed(t, "carrier", "carier"), 'the nearest is "carier"'),
        (
            lambda t: bad(t, "x", ["a", "b", "c", "d", "e", "f"]),
            'stream.features.x: expected float, got text ("a") in every row of part-1.parquet',
        ),
        (
            lambda t: bad(t, "x", [{"a": 1}] * 6),
            "stream.features.x: expected float, got struct<a: int64> in part-1.parquet",
        ),
        (lambda t: bad(t, "at", [True] * 6), "stream.predict_at.at in part-1.parquet: expected a time"),
    ],
)
def test_a_file_that_changed_halfway_is_named(tmp_path: Path, change: Any, message: str) -> None:
    folder = write(tmp_path, flights(12), 2)
    pq.write_table(change(flights(12).slice(6)), folder / "part-1.parquet")
    with pytest.raises(StreamError) as error:
        list(stream(folder, on_bad_row="quarantine", on_bad_file="fail").increments())
    assert message in str(error.value)


def test_a_type_that_still_reads_is_no_error(tmp_path: Path) -> None:
    """Numbers as text, integers as floats, text as dictionaries: the next file may be written by somebody else."""
    table = flights(12)
    second = table.slice(6)
    changed = bad(second, "x", [str(value) for value in second["x"].to_pylist()])
    changed = bad(changed, "late", [float(value) for value in second["late"].to_pylist()])
    changed = changed.set_column(4, "carrier", second["carrier"].dictionary_encode())
    changed = bad(changed, "at", [str(value) for value in second["at"].to_pylist()])
    expected = list(stream(write(tmp_path / "a", table, 2)).increments())
    folder = write(tmp_path / "b", table, 2)
    pq.write_table(changed, folder / "part-1.parquet")
    found = list(stream(folder).increments())
    assert all(same_batch(a.labelled, b.labelled) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("kind", "message", "attempt"),
    [
        (
            StreamError,
            r'a file, a folder or a glob, got ".*gone", where nothing is; check',
            lambda d: stream(d / "gone"),
        ),
        (StreamError, r"files of a known kind \(parquet, .*\) in .*none, got none", lambda d: stream(d / "none")),
        (StreamError, r"expected rows, got none in part-0\.parquet", lambda d: list(stream(d / "empty").increments())),
        (StreamError, "expected a Python module no_such_module, got none", lambda d: stream("no_such_module:rows")),
        (StreamError, "expected a function nothing in json, got none", lambda d: stream("json:nothing")),
        (
            StreamError,
            r"part 0: expected a table \(of pyarrow, of pandas, a dict of arrays\) or \(inputs, targets\), got list",
            lambda d: list(stream(lambda: [[1]]).increments()),
        ),
        (ArgumentError, r"stream.every: expected at least 1 row, got 0", lambda d: stream(d / "a", every=0)),
        (ArgumentError, r"stream.every: expected a duration .*, got 'x'", lambda d: stream(d / "a", every="x")),
        (ArgumentError, r'a predict_at column with every = "1h", got none', lambda d: untimed(d / "a", every="1h")),
        (ArgumentError, r'stream.order: expected "time" with predict_at', lambda d: stream(d / "a", order="file")),
        (
            ArgumentError,
            r"stream.label_at: expected a predict_at column too",
            lambda d: untimed(d / "a", label_at="known"),
        ),
        (ArgumentError, r"features.rate: expected a predict_at column", lambda d: untimed(d / "a", rates=RATES)),
        (ArgumentError, r"stream.warm_start: expected an ISO time", lambda d: stream(d / "a", warm_start="soon")),
        (ArgumentError, r"stream.warm_start: expected at least 1 row", lambda d: stream(d / "a", warm_start=0)),
        (
            ArgumentError,
            r"stream.warm_start: expected a predict_at",
            lambda d: untimed(d / "a", warm_start="2013-01-01"),
        ),
        (
            ArgumentError,
            r"stream.format: expected a format, got 'xml'; known: arrow.*parquet",
            lambda d: stream(d / "a", format="xml"),
        ),
        (
            ArgumentError,
            r"features.rate.outcome: expected a column of numbers with a multiclass objective",
            lambda d: stream(d / "a", encoder=encoder(objective="multiclass")),
        ),
    ],
)
def test_what_a_stream_refuses(tmp_path: Path, kind: type[IncrError], message: str, attempt: Any) -> None:
    write(tmp_path / "a", flights(12), 2)
    write(tmp_path / "empty", flights(12).slice(0, 0), 1)
    (tmp_path / "none").mkdir()
    with pytest.raises(kind, match=message):
        attempt(tmp_path)


def test_empty_files_among_others_and_other_files_are_no_matter(tmp_path: Path) -> None:
    folder = write(tmp_path, flights(12), 2)
    expected = list(stream(folder).increments())
    pq.write_table(flights(12).slice(0, 0), folder / "part-00.parquet")
    (folder / "_SUCCESS").write_text("")
    (folder / "readme.txt").write_text("not data")
    (folder / ".part-9.parquet").write_text("being written")
    found = list(stream(folder).increments())
    assert [(s.tick, len(s.labelled)) for s in found] == [(s.tick, len(s.labelled)) for s in expected]
    by_file = list(Stream(folder, encoder=encoder()).increments())
    assert [step.tick.name for step in by_file] == ["part-0.parquet", "part-1.parquet"]


@pytest.mark.parametrize("column", ["at", "known"])
@pytest.mark.parametrize(("unit", "seconds"), [("us", 253_402_300_800), ("s", -62_135_596_801), ("s", 2**50)])
def test_a_time_no_calendar_has_is_a_bad_row(tmp_path: Path, column: str, unit: str, seconds: int) -> None:
    table = flights(12)
    whole = table[column].cast(pa.timestamp(unit, tz="UTC"), safe=False)
    values = whole.cast(pa.int64()).to_numpy().copy()
    values[3] = seconds * (clock.SECOND if unit == "us" else 1)
    place = table.column_names.index(column)
    table = table.set_column(place, column, pa.array(values, pa.timestamp(unit, tz="UTC")))
    folder = write(tmp_path, table, 1)
    with pytest.raises(BadRows, match=r"expected a time, 1 of 12 rows in part-0.* are outside the years 1 to 9999"):
        list(stream(folder, time_zone="UTC").increments())
    steps = list(stream(folder, time_zone="UTC", on_bad_row="quarantine").increments())
    refused = [(row.offset, row.column, row.got) for step in steps for row in step.bad]
    assert (3, column, "outside the years 1 to 9999") in refused
    assert len(ids(step.labelled for step in steps)) + len(refused) == 12
