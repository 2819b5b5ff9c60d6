"""The stream: every row once, in time, the same after a resume; and what it says when it cannot."""

from __future__ import annotations

import json
import random
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

from incr_core import clock
from incr_core.encode import Encoder
from incr_core.errors import BadRows, IncrError, JobError, StreamError
from incr_core.new_rows import encode_file
from incr_core.partition import Blocks, ByColumn, ByHash, Partition, owners
from incr_core.rates import Rate
from incr_core.stream import Stream
from tests.core.data import HOUR, RATES, encoder, flights, ids, same, same_batch, stream, tensors, write

EVERY: list[str | int] = ["1h", "7h", "1d", 37, 1000, "file"]
SHAPES = ["plain", "warm", "warm rows", "shuffled", "quarantine", "forever", "no rates", "owned"]


def shapes(batch: Any) -> list[Any]:
    return [(tensor.dtype, tensor.shape[1:]) for tensor in tensors(batch)]


def numeric(batch: Any) -> Any:
    return batch.inputs["numeric"]


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("warm", [None, "2013-01-01T09:30", 100])
def test_every_row_arrives_once_and_is_learned_once(tmp_path: Path, every: Any, warm: Any) -> None:
    steps = list(stream(write(tmp_path, flights(300), 5), every=every, warm_start=warm).increments())
    arrived, learned = ids(s.arriving for s in steps), ids(s.labelled for s in steps)
    assert len(arrived) == 300
    assert len(set(arrived)) == 300
    assert sorted(arrived) == sorted(learned)
    assert [step.number for step in steps] == list(range(len(steps)))
    assert [step.warm for step in steps] == [warm is not None] + [False] * (len(steps) - 1)


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
        return torch.tensor(starts)[batch.rows >> 40].numpy() + (batch.rows & 0xFFFFFFFF).numpy()

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
                assert {clock.label(int(t) // tick * tick, tick) for t in times} <= {step.name}


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
            if old.time <= moment:
                assert torch.equal(old_rows.nan_to_num(), new_rows.nan_to_num())
                assert torch.equal(old.labelled.targets, new.labelled.targets)
            changed += not torch.equal(old_rows.nan_to_num(), new_rows.nan_to_num())
        assert changed > 0, "the scrambling must reach the features some day, or this test sees nothing"


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
        assert after[0].number == len(before)
        if every == 37:  # and a resume of the resume, in the middle of the late file
            assert same(stream(folder, every=every).increments(after[0].cursor), after[1:])


def test_a_shuffled_file_gives_the_same_features_as_files_in_order(tmp_path: Path) -> None:
    table = flights(300)
    shuffled = table.take(np.random.default_rng(5).permutation(300))
    ordered = list(stream(write(tmp_path / "a", table, 5)).increments())
    single = list(stream(write(tmp_path / "b", shuffled, 1)).increments())
    assert [step.name for step in single] == [step.name for step in ordered]
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
    assert [step.name for step in steps] == ["rows 0-19", "rows 20-39", "rows 40-49"]
    files = list(Stream(folder, encoder=encoder()).increments())
    assert [(step.name, len(step.arriving)) for step in files] == [("part-0.parquet", 25), ("part-1.parquet", 25)]
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
        assert [(s.number, s.name) for s in share] == [(s.number, s.name) for s in whole]
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


def test_increments_before_a_broken_file_are_given_out(tmp_path: Path) -> None:
    folder = write(tmp_path, flights(300), 3)
    whole = (folder / "part-2.parquet").read_bytes()
    (folder / "part-2.parquet").write_bytes(whole[:200])
    increments = Stream(folder, encoder=encoder()).increments()
    assert [next(increments).name, next(increments).name] == ["part-0.parquet", "part-1.parquet"]
    with pytest.raises(StreamError, match=r"part-2\.parquet: expected a whole parquet file, got one that cannot"):
        next(increments)


def test_prediction_of_a_file_sees_what_the_stream_would_have_seen(tmp_path: Path) -> None:
    """The features of rows after the last commit equal those the stream gives them itself."""
    table = flights(300)
    moment = pa.scalar(1_356_998_400 * clock.SECOND + 24 * HOUR, pa.timestamp("us"))
    before = pa.compute.less(table["at"], moment)
    early, late = table.filter(before), table.filter(pa.compute.invert(before))
    source = stream(write(tmp_path / "whole", pa.concat_tables([early, late]), 4))
    steps = source.increments()
    for step in steps:
        if step.name == "2013-01-01 23:00":
            break
    history = source.history()
    steps.close()
    path = tmp_path / "new.parquet"
    pq.write_table(late.slice(0, 5), path)
    found = encode_file(path, encoder(), RATES, history, predict_at=source.predict_at)
    rest = list(stream(tmp_path / "whole").increments(step.cursor))
    expected = torch.cat([numeric(s.arriving) for s in rest])[:5]
    first_only = late["at"][0].as_py()
    assert torch.equal(numeric(found.batch)[0].nan_to_num(-1), expected[0].nan_to_num(-1)), first_only
    assert found.offsets.tolist() == [0, 1, 2, 3, 4]


def test_an_evaluated_file_with_bad_rows_says_which(tmp_path: Path) -> None:
    table = flights(10)
    table = table.set_column(2, "x", pa.array([1.0, float("nan"), *[0.0] * 8]))
    table = table.set_column(0, "at", pa.array(table["at"].to_numpy(), mask=np.arange(10) == 4))
    path = tmp_path / "new.parquet"
    pq.write_table(table, path)
    source = stream(write(tmp_path / "old", flights(10), 1))
    found = encode_file(path, encoder(), RATES, None, predict_at=source.predict_at, labelled=True)
    assert [row.offset for row in found.bad] == [1, 4]
    assert found.offsets.tolist() == [0, 2, 3, 5, 6, 7, 8, 9]
    with pytest.raises(StreamError, match=r"missing\.parquet: expected a file of rows, got nothing there"):
        encode_file(tmp_path / "missing.parquet", encoder())


def test_width_counts_lists_and_rates(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"pixels": [[1, 2, 3]] * 4, "z": [1.0] * 4, "y": [0, 1, 0, 1]}), path)
    wide = Stream(path, encoder=Encoder("y", ["pixels", "z"], [], objective="binary", classes=None))
    assert wide.numeric_width == 4
    (step,) = wide.increments()
    assert step.arriving.inputs.shape == (4, 4)  # type: ignore[union-attr]
    assert stream(write(tmp_path / "f", flights(5), 1)).numeric_width == 2 + 2 * len(RATES)


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
        list(stream(folder, on_bad_row="quarantine").increments())
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


def untimed(source: Any, **changes: Any) -> Stream:
    return Stream(source, encoder=encoder(), **changes)


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
            "part 0: expected a pyarrow Table or RecordBatch or a dict of arrays, got list",
            lambda d: list(stream(lambda: [[1]]).increments()),
        ),
        (JobError, r"stream.every: expected at least 1 row, got 0", lambda d: stream(d / "a", every=0)),
        (JobError, r"stream.every: expected a duration .*, got 'x'", lambda d: stream(d / "a", every="x")),
        (JobError, r'a predict_at column with every = "1h", got none', lambda d: untimed(d / "a", every="1h")),
        (JobError, r'stream.order: expected "time" with predict_at', lambda d: stream(d / "a", order="file")),
        (JobError, r"stream.label_at: expected a predict_at column too", lambda d: untimed(d / "a", label_at="known")),
        (JobError, r"features.rate: expected a predict_at column", lambda d: untimed(d / "a", rates=RATES)),
        (JobError, r"stream.warm_start: expected an ISO time", lambda d: stream(d / "a", warm_start="soon")),
        (JobError, r"stream.warm_start: expected at least 1 row", lambda d: stream(d / "a", warm_start=0)),
        (JobError, r"stream.warm_start: expected a predict_at", lambda d: untimed(d / "a", warm_start="2013-01-01")),
        (JobError, r"stream.format: expected one of parquet.*, got 'xml'", lambda d: stream(d / "a", format="xml")),
        (
            JobError,
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
    assert [(s.name, len(s.labelled)) for s in found] == [(s.name, len(s.labelled)) for s in expected]
    by_file = list(Stream(folder, encoder=encoder()).increments())
    assert [step.name for step in by_file] == ["part-0.parquet", "part-1.parquet"]


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
    assert cursor["sizes"] == {"a.parquet": path.stat().st_size}
    before = path.stat().st_size
    original = path.read_bytes()
    pq.write_table(flights(rows, seed=1), path)
    with pytest.raises(StreamError) as error:
        run(cursor)
    assert str(error.value) == (
        f"stream.path: a.parquet has changed since the run read it ({before} bytes then, {path.stat().st_size} now); "
        "put it back, and add new rows as a new file"
    )
    path.write_bytes(original)
    assert same(run(cursor), whole[stop:][1:])
    del cursor["sizes"]  # a cursor of an older version
    assert [step.name for step in run(cursor)] == [step.name for step in whole[stop:][1:]]


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
    assert list(first.cursor["sizes"]) == ["part-0.parquet"]
    pq.write_table(flights(90), folder / "part-2.parquet")
    rest = list(untimed(folder, every="file").increments(first.cursor))
    assert [len(step.labelled) for step in rest] == [20, 90]


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
        list(stream(folder).increments())
    steps = list(stream(folder, on_bad_row="quarantine").increments())
    refused = [(row.offset, row.column, row.got) for step in steps for row in step.bad]
    assert (3, column, "outside the years 1 to 9999") in refused
    assert len(ids(step.labelled for step in steps)) + len(refused) == 12
