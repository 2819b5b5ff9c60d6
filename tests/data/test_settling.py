"""Files that are still being written wait; rows appended to one that was learned are read on from there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from incr_core.data.encoding import Encoder
from incr_core.data.sources import open_source
from incr_core.data.timeline import Blocks, ByColumn, Stream
from incr_core.errors import JobError, StreamError
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import rows_of
from incr_core.runs import run
from tests.support.streams import flights, ids, same, stream

pytestmark = pytest.mark.slow


def aged(path: Path, seconds: float = 100.0) -> Path:
    """As if it had been written so long ago."""
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
    return path


def lines(rows: range, kind: str, header: bool = True) -> str:
    """Some rows: x is the number of its row."""
    if kind == "jsonl":
        return "".join(json.dumps({"x": float(row), "y": row % 2}) + "\n" for row in rows)
    return ("x,y\n" if header else "") + "".join(f"{row}.0,{row % 2}\n" for row in rows)


def append(path: Path, rows: range, seconds: float = 100.0) -> None:
    with open(path, "a") as file:
        file.write(lines(rows, path.suffix[1:], header=False))
    aged(path, seconds)


def job(folder: Path, **sections: Any) -> Job:
    document = {
        "stream": {"path": str(folder), **sections.pop("stream", {})},
        "features": {"label": "y", "numeric": ["x"], "classes": [0, 1]},
        "model": {"hidden": []},
        "learner": {"objective": "binary"},
        **sections,
    }
    return Job.from_document(document)


def rows(folder: Path, **arguments: Any) -> Stream:
    encoder = Encoder("y", ["x"], [], objective="binary", classes=[0, 1])
    return Stream(folder, encoder=encoder, **arguments)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, in which time passes without our waiting for it."""
    waited: list[float] = []
    begun = time.time()
    monkeypatch.setattr(time, "time", lambda: begun + sum(waited))
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_run_waits_for_a_file_just_written_and_learns_it(tmp_path: Path, slept: list[float], name: str) -> None:
    (tmp_path / name).write_text(lines(range(20), name[2:]))
    aged(tmp_path / name, 4.0)
    document = job(tmp_path).document()
    document["features"].pop("classes")
    found = Job.from_document(document).resolved()  # looks at the data: waits, too
    assert sum(slept) == pytest.approx(6.0, abs=0.01)
    assert run(found, tmp_path / "_run").summary.rows_learned == 20
    assert len(slept) == 1  # it has settled once and for all
    aged(tmp_path / name)
    assert run(job(tmp_path), tmp_path / "_other").summary.rows_learned == 20
    assert len(slept) == 1


def test_a_path_within_the_jobs_folder_waits_wherever_the_command_is_given(
    tmp_path: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "jobs" / "data"
    data.mkdir(parents=True)
    (data / "a.csv").write_text(lines(range(20), "csv"))
    aged(data / "a.csv", 4.0)
    text = '[stream]\npath = "data"\n[features]\nlabel = "y"\n[learner]\nobjective = "binary"\n'
    (tmp_path / "jobs" / "job.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    found = Job.read(tmp_path / "jobs" / "job.toml")
    assert (found.features.classes, found.features.numeric) == ([0, 1], ["x"])
    assert sum(slept) == pytest.approx(6.0, abs=0.01)


def test_of_files_that_are_all_being_written_the_message_says_so(
    tmp_path: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text(lines(range(20), "csv"))
    monkeypatch.setattr(time, "sleep", lambda seconds: os.utime(tmp_path / "a.csv", (time.time(),) * 2))
    document = job(tmp_path).document()
    document["features"].pop("classes")
    with pytest.raises(
        StreamError, match=r"got none in .* but files still being written \(a\.csv, see stream\.settle\)"
    ):
        Job.from_document(document).resolved()


def test_a_file_still_growing_is_left_and_one_that_came_during_the_run_is_learned_by_it(
    tmp_path: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    growing: list[bool] = []

    def put(name: str, rows: range) -> Path:
        (tmp_path / name).write_text(lines(rows, "csv"))
        os.utime(tmp_path / name, (time.time(),) * 2)
        return tmp_path / name

    aged(put("a.csv", range(20)))

    def on_progress(name: str, progress: Any) -> None:
        if progress.rows == 20:
            put("b.csv", range(20, 30))
        if progress.rows == 30:
            put("c.csv", range(30, 40))
            growing.append(True)

    sleep = time.sleep

    def writes_on(seconds: float) -> None:
        sleep(seconds)
        if growing:
            os.utime(tmp_path / "c.csv", (time.time(),) * 2)

    monkeypatch.setattr(time, "sleep", writes_on)
    summary = run(job(tmp_path), tmp_path / "_run", on_progress=on_progress).summary
    assert (summary.rows_learned, summary.finished) == (30, True)
    assert [round(seconds) for seconds in slept] == [10, 10]
    growing.clear()
    assert run(job(tmp_path), tmp_path / "_run").summary.rows_learned == 40


def test_where_everything_is_still_being_written_the_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text(lines(range(20), "csv"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(
        StreamError, match=r"expected rows, got files still being written \(a\.csv\); wait .*lower stream\.settle"
    ):
        run(job(tmp_path), tmp_path / "_run")
    assert run(job(tmp_path, stream={"settle": "0s"}), tmp_path / "_run").summary.rows_learned == 20
    with pytest.raises(JobError, match=r"stream\.settle: expected a duration such as .*, got 'soon'"):
        job(tmp_path, stream={"settle": "soon"}).data()


def test_a_format_with_a_footer_says_itself_whether_it_is_whole(tmp_path: Path) -> None:
    table = pa.table({"x": [1.0, 2.0], "y": [0, 1]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "b.arrow", table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_stream(tmp_path / "c.arrow", table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "d.csv").write_text("x,y\n1.0,0\n")
    assert open_source(tmp_path, settle=10.0).names == ["a.parquet", "b.arrow", "c.arrow"]
    for name in ("a.parquet", "b.arrow", "c.arrow"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-8])
    source = open_source(tmp_path, settle=10.0)
    assert (source.names, list(source.young)) == ([], ["a.parquet", "b.arrow", "c.arrow", "d.csv"])
    # not whole, and nobody writes to it any more: a bad file
    for file in tmp_path.iterdir():
        aged(file)
    steps = list(rows(tmp_path, settle=10.0, on_bad_file="quarantine").increments())
    assert [bad.fragment for step in steps for bad in step.bad_files] == ["a.parquet", "b.arrow"]
    assert ids(step.labelled for step in steps) == [2 << 40, (2 << 40) + 1, 3 << 40]  # a stream lacked its end only


def test_a_clock_that_is_far_ahead_keeps_no_file_waiting_for_ever(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(lines(range(2), "csv"))
    assert open_source(aged(tmp_path / "a.csv", -5.0), settle=10.0).names == []
    assert open_source(aged(tmp_path / "a.csv", -3600.0), settle=10.0).names == ["a.csv"]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_appended_rows_are_learned_under_the_addresses_that_follow(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(lines(range(20), name[2:]))
    aged(tmp_path / name)
    (tmp_path / "b.csv").write_text(lines(range(100, 110), "csv"))
    aged(tmp_path / "b.csv")
    run(job(tmp_path), tmp_path / "_run")
    for number, rows in enumerate((range(20, 30), range(30, 31)), 2):
        append(file, rows)
        summary = run(job(tmp_path), tmp_path / "_run").summary
        ledger = RunDirectory.open(tmp_path / "_run").table("ledger")
        assert (summary.rows_learned, rows_of(ledger, number + 1)) == (
            10 + rows.stop,
            {name: [(rows.start, rows.stop)]},
        )
    assert run(job(tmp_path), tmp_path / "_run").summary.version == 4  # nothing new
    # the same rows as those of three files
    parts = tmp_path / "parts"
    parts.mkdir()
    for number, part in enumerate((range(20), range(100, 110), range(20, 30), range(30, 31))):
        (parts / f"{number}.csv").write_text(lines(part, "csv"))
        aged(parts / f"{number}.csv")
    assert run(job(parts), tmp_path / "_parts").summary.model_sha256 == summary.model_sha256


def appended(tmp_path: Path, make: Callable[..., Stream]) -> None:
    """A file grows after each of its increments; whoever resumes anywhere reads the same."""
    table = flights(80)
    folder = tmp_path / "data"
    folder.mkdir()
    pa.csv.write_csv(table.slice(0, 30), folder / "a.csv")
    pa.csv.write_csv(table.slice(50, 20), folder / "b.csv")
    first = list(make(folder).increments())
    tail = tmp_path / "tail.csv"
    pa.csv.write_csv(table.slice(30, 20), tail, pa.csv.WriteOptions(include_header=False))
    with open(folder / "a.csv", "ab") as file:
        file.write(tail.read_bytes())
    for stop, step in list(enumerate(first))[1 :: max(len(first) // 3, 1)]:
        after = list(make(folder).increments(step.cursor))
        learned = ids(one.labelled for one in (*first[: stop + 1], *after))
        assert sorted(learned) == [*range(50), *range(1 << 40, (1 << 40) + 20)]
        for place, one in list(enumerate(after))[:: max(len(after) // 4, 1)]:
            assert same(make(folder).increments(one.cursor), after[place + 1 :])
        # and read back by their addresses, as they were
        for one in after[:: max(len(after) // 4, 1)]:
            if len(one.labelled):
                assert one.labelled.row_ids is not None
                back = make(folder).read_back(one.labelled.row_ids.sort().values, after[-1].cursor)
                order = one.labelled.row_ids.argsort()
                assert back is not None
                assert back.targets.equal(one.labelled.targets[order])


@pytest.mark.parametrize("every", ["file", 7, "1h"])
def test_a_stream_reads_on_where_a_file_grew(tmp_path: Path, every: Any) -> None:
    appended(tmp_path, lambda folder: stream(folder, every=every))


@pytest.mark.parametrize("every", ["file", 7])
def test_rows_as_they_lie_are_read_on_too(tmp_path: Path, every: Any) -> None:
    encoder = Encoder("late", ["x"], [], objective="binary", classes=[0, 1])
    appended(tmp_path, lambda folder: Stream(folder, encoder=encoder, every=every))


def test_every_owner_reads_on_alike(tmp_path: Path) -> None:
    table = flights(60)
    pa.csv.write_csv(table.slice(0, 40), tmp_path / "a.csv")
    owners = [ByColumn("carrier", name) for name in ("AA", "UA", "DL", "B6")]
    dealt = [Blocks(index, 2, 5) for index in range(2)]
    asked = (None, *owners, *dealt)
    cursors = [list(stream(tmp_path, every=8, partition=part).increments())[-1].cursor for part in asked]
    pa.csv.write_csv(table, tmp_path / "a.csv")
    whole, *parts = [
        list(stream(tmp_path, every=8, partition=part).increments(cursor))
        for part, cursor in zip(asked, cursors, strict=True)
    ]
    assert sorted(ids(step.labelled for step in whole)) == list(range(40, 60))
    for steps in parts:
        assert [step.tick.name for step in steps] == [step.tick.name for step in whole]
    for group in (parts[:4], parts[4:]):
        assert sorted(row for steps in group for row in ids(step.labelled for step in steps)) == list(range(40, 60))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x,y\n1.0,0\n2.0,1\n", "x,y\n1.5,0\n2.0,1\n3.0,1\n"),  # written anew
        ("x,y\n1.0,0\n2.0,1", "x,y\n1.0,0\n2.0,12\n3.0,1\n"),  # its last row was not whole
        ("x,y\n1.0,0\n2.0,1\n", "x,y\n1.0,0\n"),  # shorter
    ],
)
def test_a_file_that_changed_otherwise_is_refused(tmp_path: Path, before: str, after: str) -> None:
    (tmp_path / "a.csv").write_text(before)
    cursor = list(rows(tmp_path).increments())[-1].cursor
    (tmp_path / "a.csv").write_text(after)
    with pytest.raises(
        StreamError, match=r"stream\.path: a\.csv has changed since the run read it \([\d,]+ bytes then"
    ):
        list(rows(tmp_path).increments(cursor))


def test_a_last_line_without_its_end_is_a_row_and_the_next_one_follows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1.0,0\n2.0,1")
    steps = list(rows(tmp_path).increments())
    with open(tmp_path / "a.csv", "a") as file:
        file.write("\n3.0,1\n")
    more = list(rows(tmp_path).increments(steps[-1].cursor))
    assert [step.labelled.targets.tolist() for step in (*steps, *more)] == [[0.0, 1.0], [1.0]]
    assert ids(step.labelled for step in more) == [2]


def test_what_is_appended_while_a_run_reads_is_for_later(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(lines(range(20), "csv"))
    increments = rows(tmp_path, every=5, prefetch=1).increments()
    steps = [next(increments)]
    append(tmp_path / "a.csv", range(20, 24))
    steps += increments
    assert ids(step.labelled for step in steps) == list(range(20))
    assert ids(step.labelled for step in rows(tmp_path, every=5).increments(steps[1].cursor)) == list(range(10, 24))


def test_rubbish_appended_goes_to_quarantine_until_it_is_mended(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(lines(range(20), "csv"))

    def more(cursor: Any) -> list[Any]:
        return list(rows(tmp_path, on_bad_row="quarantine").increments(cursor))

    cursor = more(None)[-1].cursor
    whole = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").write_text(whole + "1,2,3\n")
    (step,) = more(cursor)
    assert [(bad.fragment, bad.rows) for bad in step.bad_files] == [("a.csv", 0)]
    assert more(step.cursor) == []
    (tmp_path / "a.csv").write_text(whole + lines(range(20, 22), "csv", header=False))
    (mended,) = more(step.cursor)
    assert (ids([mended.labelled]), mended.bad_files) == ([20, 21], [])
    assert more(mended.cursor) == []
