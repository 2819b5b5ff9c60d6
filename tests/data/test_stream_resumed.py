"""A resumed stream goes on bit for bit, finds new files, and refuses those that have changed."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.data.encoding import Encoder
from incr_core.data.rates import Rate
from incr_core.data.sources import file_fingerprint
from incr_core.data.timeline import ByColumn, Stream
from incr_core.errors import StreamError
from tests.support.streams import EVERY, RATES, flights, ids, same, stream, untimed, write

SHAPES = ["plain", "warm", "warm rows", "shuffled", "quarantine", "forever", "no rates", "owned"]


@pytest.mark.slow
@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_resumed_stream_goes_on_bit_for_bit(tmp_path: Path, every: Any, shape: str) -> None:
    table = flights(300, hours=30)
    changes: dict[str, Any] = {}
    if shape == "shuffled":
        table = table.take(np.argsort(np.arange(300) + np.random.default_rng(1).integers(0, 100, 300)))
    if shape in ("warm", "warm rows"):
        changes["warm_start"] = "2013-01-01T12:20" if shape == "warm" else 77
    if shape == "quarantine":
        infinite, timeless = np.arange(300) % 17 == 3, np.arange(300) % 23 == 5
        x = np.where(infinite, np.inf, table["x"].to_numpy())
        at = pa.array(table["at"].to_numpy(), mask=timeless)
        table = table.set_column(2, "x", pa.array(x)).set_column(0, "at", at)
        changes["on_bad_row"] = "quarantine"
    if shape == "forever":
        changes["rates"] = (Rate(["carrier"], None, 0.5), *RATES)
    if shape == "no rates":
        changes["rates"] = ()
    if shape == "owned":
        changes["partition"] = ByColumn("carrier", "UA")
    folder = write(tmp_path, table, 9)
    whole = list(stream(folder, every=every, **changes).increments())
    if shape == "quarantine":
        reported = [row.row for step in whole for row in step.bad]
        assert len(reported) == len(set(reported)) == np.count_nonzero(infinite | timeless)
    skipped = 0
    for stop in random.Random(3).sample(range(len(whole)), min(len(whole), 6)):
        cursor = json.loads(json.dumps(whole[stop].cursor))
        skipped += bool(cursor["done"])
        assert same(stream(folder, every=every, **changes).increments(cursor), whole[stop + 1 :])
    if shape == "no rates" and len(whole) > 6:
        assert skipped, "no fragment was ever left behind: every resume read everything again"


def test_a_resume_does_not_need_files_it_has_finished_with(tmp_path: Path) -> None:
    folder = write(tmp_path, flights(300), 6)
    whole = list(stream(folder).increments())
    cursor = whole[-5].cursor
    assert cursor["done"] == [[0, 2]]  # what became known of the third lies within a window still
    for number in range(2):
        (folder / f"part-{number}.parquet").unlink()
    assert same(stream(folder).increments(cursor), whole[-4:])
    (folder / "part-5.parquet").unlink()
    with pytest.raises(StreamError, match=r"expected part-5\.parquet, which the run has not finished with.* put it"):
        list(stream(folder).increments(cursor))


def test_a_file_found_later_keeps_old_numbers_and_loses_no_row(tmp_path: Path) -> None:
    table = flights(300)
    folder = write(tmp_path, table, 3)
    for every in EVERY:
        early = folder / "a-late-arrival.parquet"
        early.unlink(missing_ok=True)
        first = stream(folder, every=every)
        before = list(first.increments())
        # Its name sorts first and its times have all passed.
        pq.write_table(table.slice(0, 50), early)
        again = stream(folder, every=every)
        after = list(again.increments(before[-1].cursor))
        assert again.fragments == [*first.fragments, "a-late-arrival.parquet"]
        rows = ids(step.labelled for step in after)
        assert sorted(rows) == [(3 << 40) + offset for offset in range(50)]
        assert after[0].tick.number == len(before)
        if every == 37:  # and a resume of the resume, in the middle of the late file
            assert same(stream(folder, every=every).increments(after[0].cursor), after[1:])


def test_a_python_source_resumes_and_must_be_in_time_order(tmp_path: Path) -> None:
    table = flights(200).drop_columns("n").append_column("n", pa.array(np.arange(200)))  # numpy has no nulls

    def parts() -> Any:
        yield table.slice(0, 80)
        yield table.slice(80, 70).to_batches()[0]
        yield {name: table.slice(150)[name].to_numpy() for name in table.column_names}

    whole = list(stream(parts).increments())
    assert same(stream(parts).increments(json.loads(json.dumps(whole[20].cursor))), whole[21:])
    files = list(stream(write(tmp_path, table, 1)).increments())
    assert [len(step.labelled) for step in files] == [len(step.labelled) for step in whole]
    with pytest.raises(StreamError, match=r"part 1: expected times not before those of .*in time order"):
        list(stream(lambda: [table.slice(100), table.slice(0, 100)]).increments())


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("stop", [1, -1])
@pytest.mark.parametrize("rows", [20, 160])
def test_a_file_that_changed_since_it_was_read_is_refused(tmp_path: Path, timed: bool, stop: int, rows: int) -> None:
    """Law 6: rows added to a finished file would be learned never, and rows put before others twice."""
    path = tmp_path / "a.parquet"
    pq.write_table(flights(60), path)

    def run(cursor: Any = None) -> Any:
        return list((stream(path) if timed else untimed(path, every=25)).increments(cursor))

    whole = run()
    cursor = json.loads(json.dumps(whole[stop].cursor))
    assert cursor["fingerprints"] == {"a.parquet": file_fingerprint(path)}
    before = path.stat().st_size
    original = path.read_bytes()
    pq.write_table(flights(rows, seed=1), path)
    with pytest.raises(StreamError) as error:
        run(cursor)
    assert str(error.value) == (
        f"stream.path: a.parquet has changed since the run read it ({before:,} bytes then, {path.stat().st_size:,} "
        "now); put it back, and add new rows as a new file"
    )
    path.write_bytes(original)
    assert same(run(cursor), whole[stop:][1:])


@pytest.mark.parametrize("rows", [60, 20_000])
def test_a_file_written_anew_at_the_same_size_is_refused(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "a.parquet"
    values = np.random.default_rng(0).permuted(np.arange(rows) / rows)

    def write_with(order: slice) -> int:
        table = pa.table({"x": values[order], "y": values[order] > 0.5})
        pq.write_table(table, path, use_dictionary=False, compression="none")
        return path.stat().st_size

    def run(cursor: Any = None) -> Any:
        plain = Encoder("y", ["x"], [], objective="binary", classes=None)
        return list(Stream(path, encoder=plain, every=rows // 2).increments(cursor))

    size = write_with(slice(None))
    whole = run()
    assert write_with(slice(None, None, -1)) == size  # the same statistics, too
    with pytest.raises(StreamError, match=f"a.parquet has changed since the run read it .{size:,} bytes as then, but"):
        run(whole[0].cursor)
    write_with(slice(None))
    os.utime(path, (1, 1))
    assert same(run(whole[0].cursor), whole[1:])


def test_a_file_that_changes_between_two_reads_of_one_run_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, flights(60), 2)
    increments = stream(folder, prefetch=1).increments()
    next(increments)
    pq.write_table(flights(90), folder / "part-1.parquet")
    with pytest.raises(StreamError, match=r"part-1\.parquet has changed since the run read it"):
        list(increments)


def test_a_file_not_read_yet_may_still_grow(tmp_path: Path) -> None:
    folder = write(tmp_path, flights(60), 3)
    first = next(untimed(folder, every="file", prefetch=1).increments())
    assert list(first.cursor["fingerprints"]) == ["part-0.parquet"]
    pq.write_table(flights(90), folder / "part-2.parquet")
    rest = list(untimed(folder, every="file").increments(first.cursor))
    assert [len(step.labelled) for step in rest] == [20, 90]
