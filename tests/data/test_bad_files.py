"""A file that cannot be used goes to quarantine as a whole; the stream goes on, and looks at it again when it
changes."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.data.sources import file_fingerprint
from incr_core.data.timeline import Blocks, ByColumn, Partition, Stream
from incr_core.errors import BadRows, IncrError, StreamError
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import rows_of
from incr_core.runs import run
from tests.support.streams import EVERY, encoder, flights, ids, same, stream, untimed, write

pytestmark = pytest.mark.slow


def put(table: pa.Table, column: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, values)


def cut(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path)
    path.write_bytes(path.read_bytes()[:200])


def saved(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path, pa.Table], None]:
    return lambda path, table: pq.write_table(change(table), path)


SPOILED: dict[str, tuple[Callable[[Path, pa.Table], None], str]] = {
    "cut short": (cut, "part-1.parquet: expected a whole parquet file, got one that cannot be read"),
    "no x": (saved(lambda t: t.drop_columns(["x"])), 'part-1.parquet: expected a column "x", got at, known'),
    "x is text": (
        saved(lambda t: put(t, "x", pa.array(["far"] * len(t)))),
        'stream.features.x: expected float, got text ("far") in every row of part-1.parquet',
    ),
    "carrier is a list": (
        saved(lambda t: put(t, "carrier", pa.array([[1]] * len(t)))),
        "stream.features.carrier in part-1.parquet: expected text, numbers or true and false, got list<",
    ),
    "at is no time": (
        saved(lambda t: put(t, "at", pa.array([True] * len(t)))),
        "stream.predict_at.at in part-1.parquet: expected a time (timestamp, date, ISO text or epoch seconds)",
    ),
    "minutes are text": (
        saved(lambda t: put(t, "minutes", pa.array(["long"] * len(t)))),
        "features.rate.outcome: expected a column of numbers, got minutes of dictionary<",
    ),
    "x is a duration": (
        saved(lambda t: put(t, "x", pa.array(range(len(t)), pa.duration("s")))),
        'part-1.parquet: expected numbers in column "x", as in part-0.parquet, got durations; write them alike',
    ),
    "known says its zone": (
        saved(lambda t: put(t, "known", t["known"].cast(pa.timestamp("us", "UTC")))),
        'part-1.parquet: expected times without one in column "known", as in column "at" of part-0.parquet, got',
    ),
}


@pytest.mark.parametrize("spoil", SPOILED)
@pytest.mark.parametrize("every", EVERY)
def test_the_stream_goes_on_without_a_bad_file_and_tells_of_it_once(tmp_path: Path, every: Any, spoil: str) -> None:
    table = flights(90)
    folder = write(tmp_path / "data", table, 3)
    change, reason = SPOILED[spoil]
    change(folder / "part-1.parquet", table.slice(30, 30))
    steps = list(stream(folder, every=every, on_bad_row="quarantine").increments())
    (bad,) = (file for step in steps for file in step.bad_files)
    assert bad.reason.startswith(reason)
    assert (bad.fragment, bad.fingerprint, bad.rows) == (
        "part-1.parquet",
        file_fingerprint(folder / "part-1.parquet"),
        0,
    )
    # the rows of the others, under the numbers that their files have anyway
    assert sorted(ids(step.labelled for step in steps)) == [*range(30), *range(2 << 40, (2 << 40) + 30)]
    (told,) = (place for place, step in enumerate(steps) if step.bad_files)
    for stop in sorted({0, told - 1, told, told + 1, len(steps) - 1} & set(range(len(steps)))):
        again = list(stream(folder, every=every, on_bad_row="quarantine").increments(steps[stop].cursor))
        assert same(again, steps[stop + 1 :])
        assert [one.bad_files for one in again] == [one.bad_files for one in steps[stop + 1 :]]
    with pytest.raises(IncrError) as error:
        list(stream(folder, every=every, on_bad_row="quarantine", on_bad_file="fail").increments())
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("every", ["file", 7])
def test_rows_as_they_lie_go_on_too_wherever_the_bad_file_is(tmp_path: Path, every: Any, where: int) -> None:
    table = flights(30)
    folder = write(tmp_path, table, 3)
    cut(folder / f"part-{where}.parquet", table)
    steps = list(untimed(folder, every=every, on_bad_file="quarantine").increments())
    assert [file.fragment for step in steps for file in step.bad_files] == [f"part-{where}.parquet"]
    assert len(ids(step.labelled for step in steps)) == 20
    for stop, step in enumerate(steps):
        assert same(untimed(folder, every=every, on_bad_file="quarantine").increments(step.cursor), steps[stop + 1 :])


def test_of_a_file_that_breaks_later_on_the_rows_before_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from incr_core.data.sources import _formats as formats

    monkeypatch.setattr(formats, "CHUNK", 10)
    table = flights(50)
    folder = write(tmp_path, table, 2)
    words = pa.array([*map(str, range(10)), *["none"] * 15])
    pq.write_table(put(table.slice(0, 25), "x", words), folder / "part-0.parquet", row_group_size=10)
    steps = list(untimed(folder, every=4, on_bad_row="quarantine").increments())
    (bad,) = (file for step in steps for file in step.bad_files)
    assert (bad.fragment, bad.rows) == ("part-0.parquet", 10)
    assert ids(step.labelled for step in steps) == [*range(10), *range(1 << 40, (1 << 40) + 25)]
    for stop, step in enumerate(steps):
        again = untimed(folder, every=4, on_bad_row="quarantine").increments(step.cursor)
        found = list(again)
        assert ids(one.labelled for one in found) == ids(one.labelled for one in steps[stop + 1 :])
        assert [one.bad_files for one in found] == [one.bad_files for one in steps[stop + 1 :]]


NO_TABLES: dict[str, Callable[[], Any]] = {
    "of two lengths": lambda: {"x": [1.0, 2.0], "y": [0]},
    "numbers and text": lambda: pd.DataFrame({"x": [1, "x"], "y": [0, 1]}),
    "objects": lambda: {"x": [object()], "y": [0]},
    "no table": lambda: None,
    "a name twice": lambda: pd.DataFrame([[1.0, 2.0, 1]], columns=["x", "x", "y"]),
}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("what", NO_TABLES)
def test_a_table_that_arrow_cannot_take_is_a_bad_file(tmp_path: Path, what: str, place: int) -> None:
    good = {"x": [float(number) for number in range(20)], "y": [number % 2 for number in range(20)]}

    def feed() -> list[Any]:
        tables: list[Any] = [good, good]
        tables.insert(place, NO_TABLES[what]())
        return tables

    document: dict[str, Any] = {
        "stream": {"path": "feeding:rows"},
        "features": {"label": "y", "on_bad_row": "quarantine"},
        "model": {"hidden": []},
        "learner": {"objective": "binary"},
    }
    module = types.ModuleType("feeding")
    module.rows = feed  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "feeding", module)
        done = run(Job.from_document(document).resolved(), tmp_path / "run")
        assert (done.summary.rows_learned, done.summary.files_quarantined) == (40, 1)
        document["features"]["on_bad_row"] = "fail"
        with pytest.raises(StreamError, match=rf"part {place}"):
            run(Job.from_document(document).resolved(), tmp_path / "other")


def test_bad_rows_still_fail_where_only_files_may_be_bad(tmp_path: Path) -> None:
    table = flights(20)
    folder = write(tmp_path, put(table, "x", pa.array([np.inf, *range(19)])), 2)
    with pytest.raises(BadRows):
        list(untimed(folder, on_bad_file="quarantine").increments())


def test_a_stream_of_bad_files_only_says_what_is_wrong(tmp_path: Path) -> None:
    cut(tmp_path / "a.parquet", flights(20))
    with pytest.raises(StreamError, match=r"expected rows, got none that can be used: a\.parquet: expected a whole"):
        list(Stream(tmp_path, encoder=encoder().measured({}), on_bad_file="quarantine").increments())


OWNERS: dict[str, list[Partition]] = {
    "columns": [ByColumn("carrier", name) for name in ("AA", "UA", "DL", "B6")],
    "blocks": [Blocks(index, 2, 5) for index in range(2)],
}


@pytest.mark.parametrize("owners", OWNERS)
@pytest.mark.parametrize("every", ["7h", 20, "file"])
def test_all_owners_of_parts_agree_which_files_are_bad(tmp_path: Path, every: Any, owners: str) -> None:
    """Whatever is in the rows of each: all text, none of it, or no row at all."""
    table = flights(90)
    folder = write(tmp_path, table, 3)
    second = table.slice(30, 30)
    # bad for everybody, though AA has no value and B6 no row there
    of = np.array(second["carrier"].to_pylist())
    words = pa.array(["far"] * 30, mask=of == "AA")
    spoiled = put(second, "x", words).filter(pa.array(of != "B6"))
    pq.write_table(spoiled, folder / "part-1.parquet")
    # good, though all that UA has there is text
    third = table.slice(60)
    of = np.array(third["carrier"].to_pylist())
    pq.write_table(put(third, "x", pa.array(np.where(of == "UA", "far", "1.5"))), folder / "part-2.parquet")
    whole = list(stream(folder, every=every, on_bad_row="quarantine").increments())
    parts = [
        list(stream(folder, every=every, on_bad_row="quarantine", partition=part).increments())
        for part in OWNERS[owners]
    ]
    for steps in parts:
        assert [step.tick for step in steps] == [step.tick for step in whole]
    learned = sorted(row for steps in parts for row in ids(step.labelled for step in steps))
    assert learned == sorted(ids(step.labelled for step in whole))
    bad = sorted(row.row for steps in parts for step in steps for row in step.bad)
    assert bad == sorted(row.row for step in whole for row in step.bad)
    assert len(bad) == int((of == "UA").sum())


def job(folder: Path, label: str = "late", **features: Any) -> Job:
    document = {
        "stream": {"path": str(folder), "settle": "0s"},
        "features": {"label": label, "numeric": ["x"], "on_bad_row": "quarantine", **features},
        "model": {"hidden": []},
        "learner": {"objective": "binary", "batch_size": 10},
    }
    return Job.from_document(document)


def test_a_run_counts_tells_and_keeps_bad_files_and_reads_them_again_when_they_are_mended(tmp_path: Path) -> None:
    table = flights(40)
    folder = write(tmp_path / "data", table, 4)
    for number in (0, 3):
        cut(folder / f"part-{number}.parquet", table)
    broken = file_fingerprint(folder / "part-0.parquet")
    first = run(job(folder).resolved(), tmp_path / "run").summary
    counted = ("rows_learned", "rows_quarantined", "files_quarantined", "events", "finished")
    assert [getattr(first, key) for key in counted] == [20, 0, 2, {"bad file": 2}, True]
    directory = RunDirectory.open(tmp_path / "run")
    (row, _) = directory.table("quarantine").to_pylist()
    assert (row["row"], row["fragment"], row["offset"], row["fingerprint"]) == (None, "part-0.parquet", None, broken)
    assert row["reason"].startswith("part-0.parquet: expected a whole parquet file")
    (event, _) = directory.table("events").to_pylist()
    assert (event["kind"], event["what"]) == ("bad file", row["reason"])
    assert event["action"] == "part-0.parquet is in quarantine"
    # nothing new: nothing is told again
    again = run(job(folder).resolved(), tmp_path / "run").summary
    assert (again.version, again.files_quarantined) == (first.version, 2)
    # mended: its rows are learned, under its own number
    pq.write_table(table.slice(0, 10), folder / "part-0.parquet")
    cut(folder / "part-3.parquet", table.slice(0, 39))  # another, but still bad
    mended = run(job(folder).resolved(), tmp_path / "run").summary
    assert [getattr(mended, key) for key in counted] == [30, 0, 3, {"bad file": 3}, True]
    directory = RunDirectory.open(tmp_path / "run")
    assert rows_of(directory.table("ledger"), (directory.latest() or 0) - 1) == {"part-0.parquet": [(0, 10)]}


def test_a_bad_file_mended_while_the_run_is_on_is_learned_by_it(tmp_path: Path) -> None:
    table = flights(40)
    folder = write(tmp_path / "data", table, 4)
    cut(folder / "part-1.parquet", table)

    def on_progress(name: str, progress: Any) -> None:
        if progress.rows == 30:
            pq.write_table(table.slice(10, 10), folder / "part-1.parquet")

    summary = run(job(folder), tmp_path / "run", on_progress=on_progress).summary
    assert (summary.rows_learned, summary.files_quarantined, summary.finished) == (40, 1, True)


def test_a_run_killed_anywhere_comes_to_the_same_model(tmp_path: Path) -> None:
    table = flights(60)
    folder = write(tmp_path / "data", table, 6)
    for number in (1, 5):
        cut(folder / f"part-{number}.parquet", table)
    whole = run(job(folder), tmp_path / "whole").summary

    class Killed(BaseException):
        pass

    for after in (1, 2, whole.increments):

        def on_progress(name: str, progress: Any, left: list[int] = [after]) -> None:  # noqa: B006
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        out = tmp_path / f"killed-{after}"
        with pytest.raises(Killed):
            run(job(folder), out, on_progress=on_progress)
        resumed = run(job(folder), out).summary
        keys = ("model_sha256", "version", "rows_learned", "files_quarantined", "events", "increments")
        assert [getattr(resumed, key) for key in keys] == [getattr(whole, key) for key in keys]


def test_what_is_found_in_the_data_is_found_without_bad_files(tmp_path: Path) -> None:
    """The columns, where the first file is broken; two classes, though a later file brings a third."""
    table = put(flights(40), "late", pa.array(["yes", "no"] * 20))
    folder = write(tmp_path / "data", table, 4)
    cut(folder / "part-0.parquet", table)
    third = put(table.slice(20, 10), "late", pa.array(["perhaps", *["yes"] * 9]))
    pq.write_table(third, folder / "part-2.parquet")
    found = job(folder, numeric=[]).resolved()
    assert found.features.classes == ["no", "yes"]
    assert found.features.numeric == ["x", "n", "minutes", "gain"]
    summary = run(found, tmp_path / "run").summary
    assert (summary.rows_learned, summary.rows_quarantined, summary.files_quarantined) == (29, 1, 1)
    with pytest.raises(StreamError, match=r"part-0\.parquet: expected a whole parquet file"):
        job(folder, numeric=[], on_bad_file="fail").resolved()
    pq.write_table(table.slice(0, 10), folder / "part-0.parquet")
    with pytest.raises(StreamError, match="expected two distinct labels for a binary objective, got 3"):
        job(folder, on_bad_file="fail").resolved()


@pytest.mark.parametrize("section", [{}, {"every": 7}, {"every": 7, "predict_at": "at", "label_at": "known"}])
def test_a_mended_file_comes_behind_what_has_arrived(tmp_path: Path, section: dict[str, Any]) -> None:
    """Though its number, and so the ids of its rows, are lower than theirs."""
    table = flights(40)
    folder = write(tmp_path, table, 4)
    cut(folder / "part-0.parquet", table)
    make = stream if section.get("predict_at") else untimed
    arguments = {name: value for name, value in section.items() if name == "every"} | {"on_bad_row": "quarantine"}
    steps = list(make(folder, **arguments).increments())
    pq.write_table(table.slice(0, 10), folder / "part-0.parquet")
    for stop, step in enumerate(steps):
        before = ids(one.labelled for one in steps[: stop + 1])
        after = list(make(folder, **arguments).increments(step.cursor))
        found = ids(one.labelled for one in after)
        assert sorted(before + found) == [number << 40 | row for number in range(4) for row in range(10)]
        for place, one in enumerate(after):
            assert same(make(folder, **arguments).increments(one.cursor), after[place + 1 :])


def test_a_mended_file_comes_behind_rows_of_the_very_moment_that_has_been_reached(tmp_path: Path) -> None:
    table = flights(6)
    moment = pa.array([table["at"][0].as_py()] * 6, pa.timestamp("us"))
    folder = write(tmp_path, table.set_column(0, "at", moment), 2)
    whole = (folder / "part-0.parquet").read_bytes()
    (folder / "part-0.parquet").write_bytes(whole[:200])

    def make() -> Stream:
        return stream(folder, every=2, label_at=None, rates=(), on_bad_row="quarantine")

    first = next(make().increments())
    (folder / "part-0.parquet").write_bytes(whole)
    rest = ids(step.labelled for step in make().increments(first.cursor))
    assert (ids([first.labelled]), rest) == ([1 << 40, (1 << 40) + 1], [(1 << 40) + 2, 0, 1, 2])


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("wrong", ["n/a", [1, 2], {"b": 1}], ids=str)
def test_one_wrong_value_of_json_lines_is_one_bad_row(tmp_path: Path, wrong: Any, named: bool) -> None:
    rows = [{"x": float(number), "z": [number, 1], "y": number % 2} for number in range(100)]
    rows[5]["x"] = wrong
    rows[7]["z"] = "none"
    rows[9]["z"] = [1, "x"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document: dict[str, Any] = {
        "stream": {"path": str(tmp_path / "data"), "settle": "0s"},
        "features": {"label": "y", "on_bad_row": "quarantine"} | ({"numeric": ["x", "z"]} if named else {}),
        "model": {"hidden": []},
        "learner": {"objective": "binary"},
    }
    found = Job.from_document(document).resolved()
    assert (found.features.numeric, found.features.categorical) == (["x", "z"], [])
    done = run(found, tmp_path / "run")
    assert (done.summary.rows_learned, done.summary.rows_quarantined, done.summary.files_quarantined) == (97, 3, 0)
    told = done.table("quarantine").select(["offset", "column"]).to_pylist()
    assert [tuple(row.values()) for row in told] == [(5, "x"), (7, "z"), (9, "z")]


def test_json_lines_that_grow_by_a_wrong_value_are_read_on(tmp_path: Path) -> None:
    path = tmp_path / "1.jsonl"
    lines = [json.dumps({"x": float(number), "y": number % 2}) + "\n" for number in range(40)]
    path.write_text("".join(lines[:20]))
    document: dict[str, Any] = {
        "stream": {"path": str(path), "settle": "0s"},
        "features": {"label": "y", "numeric": ["x"], "classes": [0, 1], "on_bad_row": "quarantine"},
        "model": {"hidden": []},
        "learner": {"objective": "binary"},
    }
    run(Job.from_document(document), tmp_path / "run")
    path.write_text("".join([*lines[:30], '{"x": "n/a", "y": 1}\n', *lines[30:]]))
    done = run(Job.from_document(document), tmp_path / "run")
    assert (done.summary.rows_learned, done.summary.rows_quarantined) == (40, 1)
