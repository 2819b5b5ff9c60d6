"""A Parquet file read in chunks: the same rows, in the same increments, from any cursor, and little of it in memory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.data.sources import _file_source as source
from incr_core.data.sources import _formats as formats
from incr_core.data.sources import open_source
from incr_core.data.timeline import Blocks, ByHash, Increment, Partition, Stream
from incr_core.errors import BadRows
from tests.support.streams import encoder, flights, same

CHUNK = 16


def written(folder: Path, *, bad: bool = False) -> Path:
    """100, 1 and 50 rows in files of row groups of 3 and of 40 rows, cut neither where chunks nor increments are."""
    table = flights(151)
    if bad:
        x = table["x"].to_numpy().copy()
        x[[5, 47, 130]] = np.nan
        table = table.set_column(table.column_names.index("x"), "x", pa.array(x))
    folder.mkdir(parents=True, exist_ok=True)
    for name, start, stop, group in (("a", 0, 100, 3), ("b", 100, 101, 40), ("c", 101, 151, 40)):
        pq.write_table(table.slice(start, stop - start), folder / f"{name}.parquet", row_group_size=group)
    return folder


def steps(path: Path, every: int | str, cursor: Any = None, **changes: Any) -> list[Increment]:
    return list(Stream(path, encoder=encoder(), every=every, **changes).increments(cursor))


@pytest.mark.parametrize("every", [1, 7, 16, 40, 1000, "file"])
@pytest.mark.parametrize("part", [None, ByHash("n", 1, 3), Blocks(1, 2, 4)])
@pytest.mark.parametrize("bad", [False, True])
def test_chunks_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int | str, part: Partition | None, bad: bool
) -> None:
    path = written(tmp_path / "data", bad=bad)
    changes: dict[str, Any] = {"partition": part, "on_bad_row": "quarantine"}
    whole = steps(path, every, **changes)
    monkeypatch.setattr(formats, "CHUNK", CHUNK)
    chunked = steps(path, every, **changes)
    assert same(chunked, whole)


@pytest.mark.parametrize("every", [7, 40])
def test_a_run_resumes_in_the_middle_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int | str
) -> None:
    monkeypatch.setattr(formats, "CHUNK", CHUNK)
    path = written(tmp_path / "data")
    whole = steps(path, every)
    for place, step in enumerate(whole):
        assert same(steps(path, every, step.cursor), whole[place + 1 :])


def test_a_file_that_is_not_done_is_not_called_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "CHUNK", CHUNK)
    cursors = [step.cursor for step in steps(written(tmp_path / "data"), 30)]
    assert [(cursor["done"], cursor["rows"]) for cursor in cursors] == [
        ([], 0),
        ([], 0),
        ([], 0),
        ([[0, 2]], 101),
        ([[0, 2]], 101),
        ([[0, 3]], 151),
    ]


@pytest.mark.parametrize("on_bad_row", ["fail", "quarantine"])
def test_no_more_of_a_file_is_read_than_the_next_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_bad_row: str
) -> None:
    monkeypatch.setattr(formats, "CHUNK", 8)
    read: list[int] = []
    chunks = formats.read_chunks

    def counted(*arguments: Any) -> Any:
        for table in chunks(*arguments):
            read.append(len(table))
            yield table

    monkeypatch.setattr(source, "read_chunks", counted)
    path = written(tmp_path / "data")
    increments = Stream(path, encoder=encoder(), every=10, prefetch=1, on_bad_row=on_bad_row).increments()
    next(increments)
    increments.close()
    # Three increments at most are made of four chunks of nine rows; four more chunks wait to be encoded.
    assert sum(read) <= 8 * 9
    assert not [thread for thread in threading.enumerate() if thread.name == "incr-prefetch"]


def test_a_bad_row_far_down_a_file_is_named_by_its_offset_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "CHUNK", CHUNK)
    path = written(tmp_path / "data", bad=True)
    found = [row for step in steps(path, 10, on_bad_row="quarantine") for row in step.bad]
    assert [(row.fragment, row.offset, row.row & 0xFFFF) for row in found] == [
        ("a.parquet", 5, 5),
        ("a.parquet", 47, 47),
        ("c.parquet", 29, 29),
    ]
    with pytest.raises(BadRows, match=r"stream\.features\.x: expected a finite number, 1 of .* in a\.parquet are NaN"):
        steps(path, 10)


def test_chunks_end_where_runs_of_row_groups_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "CHUNK", CHUNK)
    fragments = list(open_source(written(tmp_path / "data")).fragments())
    lengths = [[len(table) for table in fragment.chunks(["x", "carrier"])] for fragment in fragments]
    assert [sum(part) for part in lengths] == [100, 1, 50]
    assert max(lengths[2]) == CHUNK
    assert lengths[2] == [16, 16, 8, 10]
