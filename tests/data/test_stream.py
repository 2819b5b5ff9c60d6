"""The stream: every row once, in time, whatever names it and whoever owns its parts."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.data import times as clock
from incr_core.data.encoding import Encoder
from incr_core.data.timeline import Blocks, ByColumn, ByHash, Partition, Stream, owners
from tests.support.streams import (
    EVERY,
    HOUR,
    RATES,
    encoder,
    flights,
    ids,
    numeric,
    same,
    same_batch,
    stream,
    tensors,
    write,
)


def shapes(batch: Any) -> list[Any]:
    return [(tensor.dtype, tensor.shape[1:]) for tensor in tensors(batch)]


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("warm", [None, "2013-01-01T09:30", 100])
def test_every_row_arrives_once_and_is_learned_once(tmp_path: Path, every: Any, warm: Any) -> None:
    steps = list(stream(write(tmp_path, flights(300), 5), every=every, warm_start=warm).increments())
    arrived, learned = ids(s.arriving for s in steps), ids(s.labelled for s in steps)
    assert len(arrived) == 300
    assert len(set(arrived)) == 300
    assert sorted(arrived) == sorted(learned)
    assert [step.tick.number for step in steps] == list(range(len(steps)))
    assert [step.tick.warm for step in steps] == [warm is not None] + [False] * (len(steps) - 1)


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("overlapping", [False, True])
def test_no_label_is_given_out_before_a_later_prediction_could_not_know_it(
    tmp_path: Path, every: Any, overlapping: bool
) -> None:
    table = flights(300)
    if overlapping:
        table = table.take(np.argsort(np.arange(300) + np.random.default_rng(0).integers(0, 90, 300)))
    steps = list(stream(write(tmp_path, table, 5), every=every).increments())
    at = table["at"].cast(pa.int64()).to_numpy()
    known = table["known"].cast(pa.int64()).to_numpy()
    starts = np.linspace(0, 300, 6).astype(int)

    def place(batch: Any) -> Any:
        return torch.tensor(starts)[batch.row_ids >> 40].numpy() + (batch.row_ids & 0xFFFFFFFF).numpy()

    learned_until = -1
    for step in steps:
        arriving, labelled = place(step.arriving), place(step.labelled)
        if len(arriving):
            assert at[arriving].min() > learned_until
        if len(labelled):
            learned_until = max(learned_until, known[labelled].max())
        if isinstance(every, str) and every != "file":
            tick = clock.duration(every)
            for times in (at[arriving], known[labelled]):
                assert {clock.label(int(t) // tick * tick, tick) for t in times} <= {step.tick.name}


def test_no_prediction_depends_on_a_label_not_yet_known(tmp_path: Path) -> None:
    """Law 7: scramble all labels and outcomes unknown at t, and no row predicted up to t changes."""
    table = flights(400)
    known = table["known"].cast(pa.int64()).to_numpy()
    seen = table["seen"].cast(pa.int64()).fill_null(0).to_numpy()
    before = list(stream(write(tmp_path / "a", table, 4)).increments())
    for hours in (5, 17, 30, 47):
        moment = 1_356_998_400 * clock.SECOND + hours * HOUR
        unknown = known >= moment
        late = np.where(unknown, 1 - table["late"].to_numpy(), table["late"].to_numpy())
        minutes = np.where(unknown, 1e6, table["minutes"].to_numpy())
        gain = np.where(seen >= moment, 1e6, table["gain"].to_numpy())
        scrambled = table.set_column(6, "late", pa.array(late)).set_column(5, "minutes", pa.array(minutes))
        scrambled = scrambled.set_column(7, "gain", pa.array(gain))
        after = list(stream(write(tmp_path / f"b{hours}", scrambled, 4)).increments())
        changed = 0
        for old, new in zip(before, after, strict=True):
            old_rows, new_rows = numeric(old.arriving), numeric(new.arriving)
            if old.tick.time <= moment:
                assert torch.equal(old_rows.nan_to_num(), new_rows.nan_to_num())
                assert torch.equal(old.labelled.targets, new.labelled.targets)
            changed += not torch.equal(old_rows.nan_to_num(), new_rows.nan_to_num())
        assert changed > 0, "the scrambling must reach the features some day, or this test sees nothing"


def test_a_shuffled_file_gives_the_same_features_as_files_in_order(tmp_path: Path) -> None:
    table = flights(300)
    shuffled = table.take(np.random.default_rng(5).permutation(300))
    ordered = list(stream(write(tmp_path / "a", table, 5)).increments())
    single = list(stream(write(tmp_path / "b", shuffled, 1)).increments())
    assert [step.tick.name for step in single] == [step.tick.name for step in ordered]
    for one, other in zip(single, ordered, strict=True):
        assert torch.equal(numeric(one.arriving).nansum(0), numeric(other.arriving).nansum(0)) or len(one.arriving) > 1
        by_value = (numeric(step.arriving)[numeric(step.arriving)[:, 0].argsort()] for step in (one, other))
        assert torch.equal(*(rows.nan_to_num(-1.0) for rows in by_value))


def test_without_a_label_time_rows_are_learned_as_they_arrive(tmp_path: Path) -> None:
    for step in stream(write(tmp_path, flights(50), 2), label_at=None, rates=()).increments():
        assert step.arriving is step.labelled


def test_without_any_time_rows_come_as_they_lie(tmp_path: Path) -> None:
    folder = write(tmp_path, flights(50), 2)
    steps = list(Stream(folder, encoder=encoder(), every=20).increments())
    assert [step.tick.name for step in steps] == ["rows 0-19", "rows 20-39", "rows 40-49"]
    files = list(Stream(folder, encoder=encoder()).increments())
    assert [(step.tick.name, len(step.arriving)) for step in files] == [("part-0.parquet", 25), ("part-1.parquet", 25)]
    assert ids(s.arriving for s in steps) == ids(s.labelled for s in files)
    assert same(Stream(folder, encoder=encoder(), every=20).increments(steps[0].cursor), steps[1:])


def test_a_row_without_label_time_is_predicted_never_learned_and_counted(tmp_path: Path) -> None:
    table = flights(60)
    never = np.arange(60) % 10 == 0
    table = table.set_column(1, "known", pa.array(table["known"].to_numpy(), mask=never))
    table = table.set_column(6, "late", pa.array(table["late"].to_numpy(), mask=never))
    steps = list(stream(write(tmp_path, table, 2)).increments())
    assert (len(ids(s.arriving for s in steps)), len(ids(s.labelled for s in steps))) == (60, 54)
    assert sum(step.never for step in steps) == 6


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv", "csv.gz", "jsonl", "feather"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    table = flights(40)
    expected = list(stream(write(tmp_path / "p", table, 1)).increments())
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind in ("arrow", "feather"):
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        if kind == "feather":
            pyarrow.feather.write_feather(table, str(path))
    elif kind.startswith("csv"):
        with pa.output_stream(path) as sink:  # compresses by name
            pyarrow.csv.write_csv(table, sink)
    else:
        path.write_text("\n".join(json.dumps(row, default=str) for row in table.to_pylist()))
    found = list(stream(path).increments())
    assert all(same_batch(a.labelled, b.labelled) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["column", "hash", "blocks"])
def test_partitions_share_names_and_together_hold_every_row_once(tmp_path: Path, kind: str) -> None:
    folder = write(tmp_path, flights(200), 3)
    parts: list[Partition] = {
        "column": [ByColumn("carrier", name) for name in owners(folder, "carrier")],
        "hash": [ByHash("carrier", index, 3) for index in range(3)],
        "blocks": [Blocks(index, 3, 4) for index in range(3)],
    }[kind]  # type: ignore[assignment]
    whole = list(stream(folder).increments())
    shares = [list(stream(folder, partition=part).increments()) for part in parts]
    for share in shares:
        assert [step.tick for step in share] == [step.tick for step in whole]
        assert all(shapes(step.arriving) == shapes(whole[0].arriving) for step in share)
    learned = [ids(step.labelled for step in share) for share in shares]
    assert sorted(row for rows in learned for row in rows) == sorted(ids(step.labelled for step in whole))
    assert kind != "column" or all(learned)


def test_only_one_of_those_who_share_a_stream_tells_of_its_bad_rows(tmp_path: Path) -> None:
    table = flights(60)
    table = table.set_column(2, "x", pa.array(np.where(np.arange(60) % 7 == 0, np.inf, 0.0)))
    folder = write(tmp_path, table, 2)
    shares = [stream(folder, partition=Blocks(index, 2, 4), on_bad_row="quarantine") for index in range(2)]
    told = [[row.row for step in share.increments() for row in step.bad] for share in shares]
    assert [len(rows) for rows in told] == [9, 0]


@pytest.mark.parametrize("every", EVERY)
def test_a_warm_start_holds_exactly_the_rows_before_it(tmp_path: Path, every: Any) -> None:
    """Of files that overlap in time, too."""
    table = flights(300).take(np.argsort(np.arange(300) + np.random.default_rng(0).integers(0, 90, 300)))
    first = next(stream(write(tmp_path, table, 5), every=every, warm_start="2013-01-01T20:00").increments())
    before = 1_356_998_400 * clock.SECOND + 20 * HOUR
    for batch, column in ((first.arriving, "at"), (first.labelled, "known")):
        times = table[column].cast(pa.int64()).to_numpy()
        rows = [60 * (row >> 40) + (row & 0xFFFFFFFF) for row in ids([batch])]  # 60 rows a file
        assert sorted(rows) == np.flatnonzero(times < before).tolist()


def test_rows_of_one_moment_arrive_in_the_order_of_their_ids(tmp_path: Path) -> None:
    """Whichever file begins first: the order must not depend on what was loaded together."""
    table = flights(4).set_column(0, "at", pa.array([0, 10, 10, 10])).set_column(1, "known", pa.array([20] * 4))
    pq.write_table(table.slice(0, 2), tmp_path / "b.parquet")
    pq.write_table(table.slice(2, 2), tmp_path / "a.parquet")
    (step,) = list(stream(tmp_path, every=10, label_at=None).increments())
    assert ids([step.arriving]) == [1 << 40, 0, 1, (1 << 40) + 1]


def test_an_owners_rates_know_its_own_rows_only(tmp_path: Path) -> None:
    table = flights(200)
    mine = table.filter(pa.compute.equal(table["carrier"], "UA"))
    owned = list(stream(write(tmp_path / "a", table, 3), partition=ByColumn("carrier", "UA")).increments())
    alone = list(stream(write(tmp_path / "b", mine, 1)).increments())
    rows = [torch.cat([numeric(step.arriving) for step in steps]).nan_to_num(-1) for steps in (owned, alone)]
    assert torch.equal(*rows)


def test_the_thread_ends_when_the_consumer_stops(tmp_path: Path) -> None:
    increments = stream(write(tmp_path, flights(300), 5)).increments()
    next(increments)
    assert any(thread.name == "incr-prefetch" for thread in threading.enumerate())
    increments.close()
    assert not any(thread.name == "incr-prefetch" for thread in threading.enumerate())


def test_width_counts_lists_and_rates(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"pixels": [[1, 2, 3]] * 4, "z": [1.0] * 4, "y": [0, 1, 0, 1]}), path)
    wide = Stream(path, encoder=Encoder("y", ["pixels", "z"], [], objective="binary", classes=None))
    assert wide.numeric_width == 4
    (step,) = wide.increments()
    assert step.arriving.inputs.shape == (4, 4)  # type: ignore[union-attr]
    assert stream(write(tmp_path / "f", flights(5), 1)).numeric_width == 2 + 2 * len(RATES)
