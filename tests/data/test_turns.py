"""Readers who take turns: each gets what it would have read alone, to the bits, whatever becomes of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster._peer_transfer import PeerTurns
from incr_core.data.encoding import Encoder
from incr_core.data.timeline import Blocks, ByHash, Increment, Partition, Stream, Transfer
from incr_core.data.times import SECOND
from incr_core.errors import BadRows, StreamError
from tests.support.in_turns import gone_through, readers
from tests.support.streams import EVERY, encoder, faulty, flights, same, stream, write

COUNT = 3


def part(kind: str, index: int) -> Partition:
    return Blocks(index, COUNT, 8) if kind == "blocks" else ByHash("carrier", index, COUNT)


def compared(make: Any, **how: Any) -> list[list[Increment]]:
    """What readers in turns get, once it was found to be what each gets alone; make: from an index and turns."""
    with readers(COUNT) as turns:
        together = gone_through([make(index, turns[index]) for index in range(COUNT)], **how)
    for index, mine in enumerate(together):
        alone = list(make(index, None).increments(**how))
        assert mine
        assert same(mine, alone)
        assert [step.duplicates.tolist() for step in mine] == [step.duplicates.tolist() for step in alone]
        assert [step.bad_files for step in mine] == [step.bad_files for step in alone]
    return together


@pytest.mark.parametrize("kind", ["blocks", "hash"])
@pytest.mark.parametrize("every", EVERY)
def test_it_is_what_each_reads_alone(tmp_path: Path, every: Any, kind: str) -> None:
    folder = write(tmp_path, flights(300), 7)
    compared(lambda index, turns: stream(folder, every=every, partition=part(kind, index), turns=turns))


def in_row_groups(folder: Path, table: pa.Table) -> Path:
    """Two files whose times overlap, of row groups of nine rows, not in the order of their times."""
    folder.mkdir()
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    pq.write_table(shuffled.slice(0, 200), folder / "a.parquet", row_group_size=9)
    pq.write_table(shuffled.slice(200), folder / "b.parquet", row_group_size=9)
    return folder


@pytest.mark.parametrize("kind", ["blocks", "hash"])
@pytest.mark.parametrize("every", ["7h", 37, "file"])
def test_so_it_is_where_each_reads_some_row_groups_of_a_file(
    tmp_path: Path, every: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incr_core.data.sources._formats.CHUNK", 20)
    table = flights(300)
    times, x = table["at"].cast(pa.int64()).to_numpy().copy(), table["x"].to_numpy().copy()
    order = np.random.default_rng(0).permutation(300)
    times[order[20:33]] = 3_980_000_000 * SECOND  # in 2096: few of the file's rows, most of one part's
    x[[7, 8, 250]] = np.nan
    table = table.set_column(0, "at", pa.array(times, pa.timestamp("us"))).set_column(2, "x", pa.array(x))
    table = table.append_column("id", pa.array([*range(290), *range(10)]))
    folder = in_row_groups(tmp_path / "data", table)
    told = {"on_bad_row": "quarantine", "key": "id"}
    found = compared(lambda index, turns: stream(folder, every=every, partition=part(kind, index), turns=turns, **told))
    assert len({row.row for mine in found for step in mine for row in step.bad}) >= 13


def test_a_file_of_which_one_part_cannot_be_used_is_judged_by_all_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incr_core.data.sources._formats.CHUNK", 20)
    table = flights(300).sort_by("at")
    texts = [*(["none"] * 30), *map(str, range(270))]  # all of the first row groups
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(table.set_column(2, "x", pa.array(texts)), folder / "a.parquet", row_group_size=10)
    found = compared(
        lambda index, turns: stream(folder, partition=part("blocks", index), turns=turns, on_bad_row="quarantine")
    )
    assert sum(len(step.bad) for step in found[0]) == 30


@pytest.mark.parametrize("kind", ["blocks", "hash"])
@pytest.mark.parametrize("every", [37, "file"])
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_so_it_is_where_rows_come_as_they_lie(
    tmp_path: Path, every: Any, kind: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incr_core.data.sources._formats.CHUNK", 20)
    table = flights(300)
    for name, start, stop, group in (("a", 0, 150, 9), ("b", 150, 150, 9), ("c", 150, 151, 9), ("d", 151, 300, 90)):
        rows = table.slice(start, stop - start)
        if ending == "parquet":
            pq.write_table(rows, tmp_path / f"{name}.parquet", row_group_size=group)
        else:
            rows.to_pandas().to_csv(tmp_path / f"{name}.csv", index=False)
    compared(
        lambda index, turns: Stream(
            tmp_path, encoder=encoder(), every=every, partition=part(kind, index), turns=turns, settle=0
        )
    )


@pytest.mark.parametrize("kind", ["blocks", "hash"])
def test_bad_rows_bad_files_and_duplicates_are_told_as_alone(tmp_path: Path, kind: str) -> None:
    faulty(tmp_path / "data")
    told = {"on_bad_row": "quarantine", "key": "id", "key_window": "30d"}
    found = compared(
        lambda index, turns: stream(tmp_path / "data", partition=part(kind, index), turns=turns, every="16h", **told)
    )
    assert sum(len(step.duplicates) for mine in found for step in mine) == 10
    assert sum(len(step.bad) for mine in found for step in mine) == 1
    assert any(step.bad_files for step in found[0])


def test_a_file_that_cannot_be_used_further_down_ends_for_all_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incr_core.data.sources._formats.CHUNK", 20)
    texts = [str(n) for n in range(60)]
    texts[40:60] = ["none"] * 20
    for name in ("a", "b"):
        table = pa.table({"x": texts if name == "a" else texts[:60:3], "y": [0, 1] * (30 if name == "a" else 10)})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=20)
    compared(
        lambda index, turns: Stream(
            tmp_path,
            encoder=Encoder("y", ["x"], [], objective="binary", classes=[0, 1]),
            every=10,
            partition=Blocks(index, COUNT, 4),
            on_bad_row="quarantine",
            turns=turns,
        )
    )


def test_sequences_weights_and_tasks_are_handed_over_too(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for part_of in range(4):
        words = draw.integers(0, 9, (20, 5)).tolist()
        table = {"words": words, "w": draw.random(20), "task": draw.integers(0, 3, 20)}
        pq.write_table(pa.table(table), tmp_path / f"{part_of}.parquet")
    encoder = Encoder(
        "words", [], [], objective="next_token", classes=None, vocabulary=9, weight="w", task="task", tasks=3
    )
    compared(
        lambda index, turns: Stream(tmp_path, encoder=encoder, every=7, partition=Blocks(index, COUNT, 2), turns=turns)
    )


def test_tables_of_a_function_are_encoded_in_turns(tmp_path: Path) -> None:
    table = flights(120)
    compared(
        lambda index, turns: Stream(
            lambda: [table.slice(30 * n, 30) for n in range(4)],
            encoder=encoder(),
            every=17,
            partition=Blocks(index, COUNT, 4),
            turns=turns,
        )
    )


@pytest.mark.parametrize("at", [0, 3, 9])
def test_a_resumed_reader_takes_its_turns(tmp_path: Path, at: int) -> None:
    folder = write(tmp_path, flights(300), 9)
    first = list(stream(folder, partition=Blocks(0, COUNT, 8)).increments())
    compared(
        lambda index, turns: stream(folder, partition=Blocks(index, COUNT, 8), turns=turns), cursor=first[at].cursor
    )


def test_who_is_behind_reads_by_itself_what_the_others_have_let_go(tmp_path: Path) -> None:
    folder = write(tmp_path, flights(300), 9)

    def make(index: int, turns: PeerTurns | None) -> Stream:
        return stream(folder, every=20, partition=Blocks(index, 2, 8), turns=turns)

    with readers(2, patience=60.0) as turns:
        [one, other] = gone_through([make(index, turns[index]) for index in range(2)], steps=10)
        again = stream(folder, every=20, partition=Blocks(1, 2, 8), turns=turns[1]).increments()
        found = [next(again) for _ in range(9)]
        again.close()
    assert same(found, other[:9])
    assert same(one, list(make(0, None).increments())[: len(one)])


def test_readers_go_on_without_one_that_is_gone(tmp_path: Path) -> None:
    folder = write(tmp_path, flights(300), 9)
    with readers(3) as turns:
        turns[1].close()  # as a process that was killed
        left = [stream(folder, partition=Blocks(index, 3, 8), turns=turns[index]) for index in (0, 2)]
        found = gone_through(left)
    for index, mine in zip((0, 2), found, strict=True):
        assert same(mine, list(stream(folder, partition=Blocks(index, 3, 8)).increments()))


def test_a_bad_row_ends_all_readers_where_it_shall(tmp_path: Path) -> None:
    table = flights(60)
    values = table["x"].to_numpy().copy()
    values[25] = np.nan
    folder = write(tmp_path, table.set_column(2, "x", pa.array(values)), 3)
    with readers(2) as turns, pytest.raises(BadRows, match=r"1 of 20 rows in part-1.parquet are NaN"):
        gone_through([stream(folder, partition=Blocks(index, 2, 8), turns=turns[index]) for index in range(2)])


def test_a_changed_file_is_not_taken_from_another(tmp_path: Path) -> None:
    """Each reader makes sure by itself that a file is as it was, and that the others mean the same."""
    folder = write(tmp_path, flights(60), 3)
    with readers(2) as turns:
        turns[0].offer((0, 1, 0, 0), Transfer({}, {"name": "part-0.parquet 1:00"}))
        mine = next(Stream(folder, encoder=encoder(), every=5, partition=Blocks(1, 2, 4), turns=turns[1]).increments())
    assert len(mine.labelled) == 2
    cursor = list(Stream(folder, encoder=encoder(), every=5).increments())[1].cursor
    pq.write_table(flights(20, seed=3), folder / "part-0.parquet")
    with readers(2) as turns:
        again = Stream(folder, encoder=encoder(), every=5, partition=Blocks(1, 2, 4), turns=turns[1]).increments(cursor)
        with pytest.raises(StreamError, match=r"part-0.parquet has changed since the run read it"):
            next(again)
