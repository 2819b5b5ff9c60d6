"""How much of a stream's files is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.batch import Batch
from incr_core.data.encoding import Encoder
from incr_core.data.rates import History
from incr_core.data.sources import SharedReads
from incr_core.data.timeline import Blocks, ByColumn, ByHash, Partition, Stream
from incr_core.errors import StreamError
from tests.support.decoding import count_decoded
from tests.support.in_turns import gone_through, readers
from tests.support.kinds import sorted_columns
from tests.support.streams import flights, write
from tests.support.streams import stream as timed

ROWS = 200
OWNERS = {
    "column": [ByColumn("kind", kind) for kind in "abc"],
    "hash": [ByHash("kind", index, 3) for index in range(3)],
    "blocks": [Blocks(index, 3, 4) for index in range(3)],
}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    return count_decoded(monkeypatch)


def test_to_find_the_type_of_a_column_of_nulls_no_other_is_decoded(tmp_path: Path, decoded: Counter[str]) -> None:
    for day in range(20):
        late = pa.array([1.5]) if day == 19 else pa.nulls(1)
        pq.write_table(pa.table({"x": [1.0], "late": late, "never": pa.nulls(1)}), tmp_path / f"{day}.parquet")
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "3.parquet")  # lacks them
    assert sorted_columns(tmp_path) == (["x", "late"], [])
    assert decoded == {"x": 1, "late": 2, "never": 1}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for day in range(3):
        number = range(ROWS)
        table = pa.table(
            {
                "at": pa.array([day * ROWS + n for n in number], pa.timestamp("s")),
                "kind": [("a", "b", "c", None)[n * n % 4] for n in number],
                "x": [float(n) for n in number],
                "y": [n % 2 for n in number],
            }
        )
        pq.write_table(table, folder / f"{day}.parquet", row_group_size=32)
    return folder


def stream(path: Path, owner: Partition, reads: SharedReads | None = None, **how: Any) -> Stream:
    encoder = Encoder("y", ["x"], ["kind"], objective="binary", classes=[0, 1], widths={})
    return Stream(path, encoder=encoder, every=30, partition=owner, reads=reads, **how)


def rows_of(batches: list[Batch]) -> list[Any]:
    found: list[Any] = []
    for batch in batches:
        assert batch.row_ids is not None
        assert isinstance(batch.inputs, dict)
        inputs = {name: values.tolist() for name, values in batch.inputs.items()}
        found.append((batch.row_ids.tolist(), inputs, batch.targets.tolist()))
    return found


def arriving(stream: Stream) -> list[Any]:
    return rows_of([increment.arriving for increment in stream.increments()])


@pytest.mark.parametrize("order", [{"order": "file"}, {"predict_at": "at"}], ids=["file", "time"])
@pytest.mark.parametrize("owners", OWNERS.values(), ids=OWNERS)
def test_all_owners_of_a_process_read_each_row_once(
    files: Path, decoded: Counter[str], owners: list[Partition], order: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incr_core.data.sources._formats.CHUNK", 64)
    alone = [arriving(stream(files, owner, **order)) for owner in owners]
    decoded.clear()
    reads = SharedReads()
    together = [stream(files, owner, reads, **order).increments() for owner in owners]
    found: list[list[Batch]] = [[] for _ in owners]
    for step in zip_longest(*together):
        for place, increment in enumerate(step):
            found[place].append(increment.arriving)
    assert [rows_of(batches) for batches in found] == alone
    assert decoded["x"] == decoded["y"] == decoded["kind"] == 3 * ROWS


@pytest.mark.parametrize("owners", OWNERS.values(), ids=OWNERS)
def test_an_owner_that_is_far_behind_reads_by_itself(
    files: Path, decoded: Counter[str], owners: list[Partition], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incr_core.data.sources._formats.CHUNK", 64)
    alone = [arriving(stream(files, owner, order="file")) for owner in owners]
    reads = SharedReads(room=1)
    behind = stream(files, owners[0], reads, order="file").increments()
    first = next(behind)
    assert [arriving(stream(files, owner, reads, order="file")) for owner in owners[1:]] == alone[1:]
    assert rows_of([first.arriving, *(increment.arriving for increment in behind)]) == alone[0]


def test_each_owner_meets_the_fault_of_a_file_itself() -> None:
    opened: list[int] = []

    def read() -> Iterator[pa.Table]:
        opened.append(1)
        yield pa.table({"x": [1.0]})
        raise StreamError("day.csv: torn")

    reads = SharedReads()
    first, second = (reads.tables("day.csv", read) for _ in range(2))
    assert [len(next(first)), len(next(second))] == [1, 1]
    for tables in (first, second, reads.tables("day.csv", read)):
        with pytest.raises(StreamError, match="torn"):
            list(tables)


def test_only_as_much_is_kept_as_there_is_room_for() -> None:
    def read() -> Iterator[pa.Table]:
        yield from (pa.table({"x": [float(place)]}) for place in range(100))

    reads = SharedReads(room=80)  # of ten tables
    ahead, behind, late = (reads.tables("a.csv", read) for _ in range(3))
    next(behind)
    whole = [float(place) for place in range(100)]
    assert [table["x"][0].as_py() for table in ahead] == whole
    assert reads.bytes <= 80
    assert [table["x"][0].as_py() for table in behind] == whole[1:]
    assert [table["x"][0].as_py() for table in late] == whole
    assert reads.bytes <= 80


def test_a_file_written_again_is_read_again(files: Path) -> None:
    reads = SharedReads()
    owner = ByColumn("kind", "a")
    before = arriving(stream(files, owner, reads))
    table = pq.read_table(files / "0.parquet")
    pq.write_table(table.set_column(1, "kind", [["z"] * (ROWS - 1) + ["a"]]), files / "0.parquet")
    after = arriving(stream(files, owner, reads))
    assert after == arriving(stream(files, owner)) != before


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("layout", ["many files", "one file of many row groups"])
@pytest.mark.parametrize(
    ("order", "every"),
    [({}, 130), ({}, 10), ({"predict_at": "at"}, 130)],
    ids=["as they lie", "few at a time", "by time"],
)
def test_replicas_in_turns_decode_and_encode_each_row_once(
    tmp_path: Path,
    decoded: Counter[str],
    count: int,
    layout: str,
    order: dict[str, str],
    every: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("incr_core.data.sources._formats.CHUNK", 50)
    rows = 1600
    columns = {"at": np.arange(rows), "x": np.arange(float(rows)), "kind": ["a", "b"] * (rows // 2)}
    table = pa.table(columns | {"y": [0, 1] * (rows // 2)})
    if layout == "many files":
        write(tmp_path, table, 32)
    else:
        pq.write_table(table, tmp_path / "all.parquet", row_group_size=25)
    encoded: Counter[int] = Counter()
    encode = Encoder.encode

    def counted(self: Encoder, table: pa.Table, *given: Any) -> Any:
        encoded[id(self)] += len(table)
        return encode(self, table, *given)

    monkeypatch.setattr(Encoder, "encode", counted)
    with readers(count) as turns:
        streams = [
            Stream(
                tmp_path,
                encoder=Encoder("y", ["x"], ["kind"], objective="binary", classes=[0, 1], widths={}),
                every=every,
                partition=Blocks(index, count, 8) if count > 1 else None,
                turns=turns[index],
                **order,  # type: ignore[arg-type]
            )
            for index in range(count)
        ]
        gone_through(streams)
    assert [decoded[name] for name in ("x", "kind", "y")] == [rows] * 3
    assert sum(encoded.values()) == rows
    assert max(encoded.values()) <= 1.2 * rows / count


def test_replicas_in_turns_make_the_rates_of_a_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    features = History.features

    def counted(self: History, rows: Any, times: Any) -> Any:
        made.append(len(times))
        return features(self, rows, times)

    monkeypatch.setattr(History, "features", counted)
    folder = write(tmp_path, flights(800), 16)
    with readers(4) as turns:
        gone_through([timed(folder, partition=Blocks(index, 4, 8), turns=turns[index]) for index in range(4)])
    assert sum(made) == 800
