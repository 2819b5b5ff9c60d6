"""Rows that are delivered twice are learned once, known again by their keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.data.timeline import Blocks, ByColumn, Increment, Stream
from incr_core.data.timeline._keys import NO_KEY, Learned, keys_of
from incr_core.data.times import SECOND
from incr_core.errors import JobError, StreamError
from incr_core.job import Job
from incr_core.registry import RunDirectory, state_folder
from incr_core.registry.ledger import count, rows_of
from incr_core.runs import run
from incr_core.storage import checkpoint
from tests.support.streams import EVERY, flights, ids, numeric, same, stream, untimed, write

pytestmark = pytest.mark.slow


def naive(keys: list[int], at: list[int], learns: list[bool], window: int) -> list[bool]:
    """The definition, row by row."""
    last: dict[int, int] = {}
    found = []
    for key, moment, learned in zip(keys, at, learns, strict=True):
        found.append(key != 0 and key in last and moment - last[key] <= window)
        if learned and key:
            last[key] = moment
    return found


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("window", [1, 7, 60, 10_000])
def test_duplicates_are_those_of_the_definition_however_rows_are_grouped_and_resumed(timed: bool, window: int) -> None:
    draw = np.random.default_rng(window)
    size = 600
    keys = draw.integers(0, 40, size).astype(np.uint64)
    times = np.sort(draw.integers(0, 500, size))
    learns = draw.random(size) < 0.8
    usable = draw.random(size) < 0.9  # the others pass, and count as rows of the stream
    at = times if timed else np.arange(size)
    expected = naive(keys[usable].tolist(), at[usable].tolist(), learns[usable].tolist(), window)
    for cuts in (1, 13, 150):
        learned, found = Learned(window, timed), []
        for places in np.array_split(np.arange(size), cuts):
            mine = places[usable[places]]
            double, learned = learned.taking(keys[mine], mine - places[0], times[mine], learns[mine], len(places))
            found += double.tolist()
            state = learned.state_dict()
            learned = Learned(window, timed).resumed(state) if len(found) % 3 else learned
        assert found == expected
        assert not timed or len(state["keys"]) <= 40


def test_what_is_remembered_is_no_more_than_the_window() -> None:
    learned, sizes = Learned(1000, False), []
    for start in range(0, 50_000, 100):
        keys = np.arange(start + 1, start + 101, dtype=np.uint64)
        _, learned = learned.taking(keys, np.arange(100), np.zeros(100, np.int64), np.ones(100, bool), 100)
        sizes.append(sum(len(run.keys) for run in learned.runs))
    assert max(sizes) <= 4000
    assert len(learned.state_dict()["keys"]) == 1000


def test_a_key_reads_the_same_in_all_types() -> None:
    text = pa.array(["1", "20", "300", None], pa.string())
    alike = [
        text,
        text.cast(pa.large_string()),
        text.dictionary_encode(),
        pa.array([1, 20, 300, None]),
        pa.array([1, 20, 300, None], pa.uint16()),
        pa.array([1.0, 20.0, 300.0, None]),
        pa.array([b"1", b"20", b"300", None]),
        pa.array(["0", "1", "20", "300", None]).slice(1),
        pa.chunked_array([text.slice(0, 1), text.slice(1)]),
    ]
    found = [keys_of(pa.table({"id": column}), ["id"], "here") for column in alike]
    assert all((keys == found[0]).all() for keys in found)
    assert found[0][3] == NO_KEY
    assert len(set(found[0].tolist())) == 4


def test_keys_of_many_rows_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    from incr_core.data.timeline import _keys as module

    words = [f"{number:x}" * (1 + number % 3) for number in range(20_000)]
    table = pa.table({"id": words, "shop": [word[::-1] for word in words]})
    found = keys_of(table, ["id"], "here")
    assert len(set(found.tolist())) == len(set(words))
    monkeypatch.setattr(module, "BYTES", 100)  # as many as can be hashed at a time are no matter
    assert (keys_of(table, ["id"], "here") == found).all()
    both = keys_of(table, ["id", "shop"], "here")
    assert not (both == keys_of(table, ["shop", "id"], "here")).all()
    assert keys_of(pa.table({"id": pa.array([], pa.string())}), ["id"], "here").tolist() == []
    with pytest.raises(StreamError, match=r"stream\.key\.id in here: expected text, numbers or times, got list"):
        keys_of(pa.table({"id": [[1]]}), ["id"], "here")


def twice(table: pa.Table) -> tuple[pa.Table, np.ndarray[Any, Any]]:
    """A table with ids in which every fifth row comes again, later, and some a third time; and which those are."""
    draw = np.random.default_rng(0)
    size = len(table)
    table = table.append_column("id", pa.array([f"row {number}" for number in range(size)]))
    again = np.arange(0, size, 5)
    places = np.concatenate([np.arange(size), again, again[::4]])
    order = np.argsort(
        np.concatenate([np.arange(size), again + draw.integers(0, 40, len(again)) + 0.5, again[::4] + 60.5]),
        kind="stable",
    )
    seen: set[int] = set()
    double = []
    for place in places[order].tolist():
        double.append(place in seen)
        seen.add(place)
    return table.take(pa.array(places[order])), np.array(double)


def in_files(steps: list[Increment], files: int, size: int) -> dict[str, list[int]]:
    """Which rows of the whole table were learned, and which were duplicates."""
    starts = np.linspace(0, size, files + 1).astype(int)

    def places(found: list[int]) -> list[int]:
        return sorted(int(starts[row >> 40] + (row & ((1 << 40) - 1))) for row in found)

    duplicates = [row for step in steps for row in step.duplicates.tolist()]
    return {"learned": places(ids(step.labelled for step in steps)), "duplicate": places(duplicates)}


@pytest.mark.parametrize("every", ["file", 7, 1000])
def test_rows_as_they_lie_are_learned_once(tmp_path: Path, every: Any) -> None:
    table, double = twice(flights(100))
    folder = write(tmp_path, table, 4)

    def make(**changes: Any) -> Stream:
        return untimed(folder, every=every, key="id", **changes)

    steps = list(make().increments())
    found = in_files(steps, 4, len(table))
    assert found == {"learned": np.flatnonzero(~double).tolist(), "duplicate": np.flatnonzero(double).tolist()}
    assert sum(len(step.arriving) for step in steps) == 100  # nor are they predicted
    resumed(make, steps)
    assert all(len(step.duplicates) == 0 for step in untimed(folder, every=every).increments())


def resumed(make: Callable[[], Stream], steps: list[Increment], stride: int = 1) -> None:
    """From after each of its increments, or of every few, the stream goes on as it did."""
    for stop, step in list(enumerate(steps))[::stride]:
        assert step.learned is not None
        again = list(make().increments(step.cursor, step.learned.state_dict()))
        assert same(again, steps[stop + 1 :])
        assert all(one.duplicates.equal(other.duplicates) for one, other in zip(again, steps[stop + 1 :], strict=True))


@pytest.mark.parametrize("every", EVERY)
def test_rows_with_times_are_learned_once_and_enter_rates_once(tmp_path: Path, every: Any) -> None:
    table, double = twice(flights(100))
    # delivered again with the times it had: by time, a copy comes right behind its row
    folder = write(tmp_path / "data", table, 4)
    once = write(tmp_path / "once", table.filter(pa.array(~double)), 1)

    def make() -> Stream:
        return stream(folder, every=every, key="id", key_window="60d")

    steps = list(make().increments())
    found = in_files(steps, 4, len(table))
    assert sorted(found["learned"] + found["duplicate"]) == list(range(len(table)))
    assert len(found["learned"]) == 100
    learned = table.take(pa.array(found["learned"]))
    assert sorted(learned["id"].to_pylist()) == sorted(set(table["id"].to_pylist()))
    if every in ("1h", "7h", "1d"):
        expected = list(stream(once, every=every).increments())
        totals = [float(numeric(step.labelled)[:, 2:].sum()) for step in expected]
        assert [float(numeric(step.labelled)[:, 2:].sum()) for step in steps] == pytest.approx(totals)
        assert [step.labelled.targets.sum() for step in steps] == [step.labelled.targets.sum() for step in expected]
    resumed(make, steps, max(len(steps) // 5, 1))
    # read back with their rates, as they were
    last = steps[-1]
    some = next(step for step in reversed(steps) if len(step.labelled))
    assert some.labelled.row_ids is not None
    back = make().read_back(some.labelled.row_ids.sort().values, last.cursor)
    assert back is not None
    order = some.labelled.row_ids.argsort()
    assert numeric(back).numpy().tobytes() == numeric(some.labelled)[order].numpy().tobytes()


def test_a_row_comes_again_when_the_window_has_passed(tmp_path: Path) -> None:
    hours = np.array([0, 1, 2, 5, 30, 31]) * 3600 * SECOND
    table = pa.table(
        {
            "at": pa.array(hours, pa.timestamp("us")),
            "x": [0.0] * 6,
            "late": [0, 1, 0, 1, 0, 1],
            "carrier": ["AA"] * 6,
            "n": [1] * 6,
            "id": ["a", "a", "b", "a", "a", None],
        }
    )
    folder = write(tmp_path, table, 2)

    def doubles(**arguments: Any) -> list[int]:
        made = stream(folder, label_at=None, rates=(), every=1, key="id", **arguments)
        return [(row >> 40) * 3 + (row & 7) for step in made.increments() for row in step.duplicates.tolist()]

    assert doubles(key_window="4h") == [1, 3]
    assert doubles(key_window="1h") == [1]
    assert doubles(key_window="7d") == [1, 3, 4]
    assert doubles(key_window=2) == [1, 3, 4]
    assert doubles(key_window=1) == [1, 4]
    assert doubles() == [1, 3, 4]


def test_only_a_copy_of_a_row_that_is_learned_is_a_duplicate(tmp_path: Path) -> None:
    """Not of one that could not be used, nor of one whose label never came: the next copy may be better."""
    table = flights(6)
    known = pa.array([None, *table["known"].to_pylist()[1:]], pa.timestamp("us"))
    table = table.set_column(1, "known", known).set_column(2, "x", pa.array([1.0, np.inf, 1.0, 1.0, 1.0, 1.0]))
    table = table.append_column("id", pa.array(["a", "b", "a", "b", "a", "b"]))
    steps = list(stream(write(tmp_path, table, 2), key="id", key_window="60d", on_bad_row="quarantine").increments())
    assert [row.offset for step in steps for row in step.bad] == [1]
    assert sorted(ids(step.labelled for step in steps)) == [2, 1 << 40]
    assert sorted(row for step in steps for row in step.duplicates.tolist()) == [(1 << 40) + 1, (1 << 40) + 2]


@pytest.mark.parametrize("every", ["7h", 20])
def test_replicas_leave_out_what_all_of_them_see_and_clients_each_their_own(tmp_path: Path, every: Any) -> None:
    table, _ = twice(flights(100))
    folder = write(tmp_path, table, 4)

    def make(part: Any) -> list[Increment]:
        return list(stream(folder, every=every, key="id", key_window="60d", partition=part).increments())

    whole = make(None)
    names = ("AA", "UA", "DL", "B6")
    for parts in ([Blocks(index, 2, 5) for index in range(2)], [ByColumn("carrier", name) for name in names]):
        found = [make(part) for part in parts]
        for steps in found:
            assert [step.tick for step in steps] == [step.tick for step in whole]
        for of in (lambda step: ids([step.labelled]), lambda step: step.duplicates.tolist()):
            told = sorted(row for steps in found for step in steps for row in of(step))
            assert told == sorted(row for step in whole for row in of(step))


def job(folder: Path, **stream: Any) -> Job:
    document = {
        "stream": {"path": str(folder), "every": 15, "key": "id", **stream},
        "features": {"label": "late", "numeric": ["x"], "categorical": ["carrier"], "classes": [0, 1]},
        "model": {"hidden": [3]},
        "learner": {"objective": "binary", "batch_size": 10},
        "publish": {"every": 2},
    }
    return Job.from_document(document)


class Killed(BaseException):
    """As good as a kill."""


def test_a_run_counts_duplicates_keeps_their_addresses_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    table, double = twice(flights(60))
    folder = write(tmp_path / "data", table, 3)
    whole = run(job(folder), tmp_path / "whole").summary
    doubles = int(double.sum())
    assert (whole.rows_learned, whole.rows_duplicate, whole.rows_predicted) == (60, doubles, 60)
    directory = RunDirectory.open(tmp_path / "whole")
    assert count(directory.table("duplicates")) == doubles
    assert sum(directory.table("metrics")["rows_duplicate"].to_pylist()) == doubles
    # every row of the files has one state: learned, or duplicate
    accounted: dict[str, list[int]] = {}
    for kind in ("ledger", "duplicates"):
        entries = directory.table(kind)
        for version in set(entries["version"].to_pylist()):
            for name, ranges in rows_of(entries, version).items():
                accounted.setdefault(name, []).extend(row for pair in ranges for row in range(*pair))
    assert {name: sorted(rows) for name, rows in accounted.items()} == {
        f"part-{part}.parquet": list(range(pq.read_metadata(folder / f"part-{part}.parquet").num_rows))
        for part in range(3)
    }
    for after in (1, 3, whole.increments):
        left = [after]

        def on_progress(name: str, progress: Any) -> None:
            left[0] -= 1  # noqa: B023
            if left[0] == 0:  # noqa: B023
                raise Killed

        with pytest.raises(Killed):
            run(job(folder), tmp_path / f"{after}", on_progress=on_progress)
        again = run(job(folder), tmp_path / f"{after}").summary
        keys = ("model_sha256", "version", "rows_learned", "rows_duplicate", "increments")
        assert [getattr(again, key) for key in keys] == [getattr(whole, key) for key in keys]


def test_keys_are_remembered_when_their_files_are_gone(tmp_path: Path) -> None:
    table = flights(40).append_column("id", pa.array(range(40)))
    folder = write(tmp_path / "data", table.slice(0, 20), 2)
    assert run(job(folder), tmp_path / "run").summary.rows_learned == 20
    for file in folder.iterdir():
        file.unlink()
    pq.write_table(table.slice(10), folder / "part-9.parquet")  # half of them again
    summary = run(job(folder), tmp_path / "run").summary
    assert (summary.rows_learned, summary.rows_duplicate) == (40, 10)
    version = summary.version
    state, _ = checkpoint.load(state_folder(tmp_path / "run", "all", version))
    assert len(state["keys"]["keys"]) == 40


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"key": None, "key_window": 5}, r"stream\.key_window: expected stream\.key too, got none; name columns that"),
        ({"key_window": "7d"}, r'stream\.key_window: expected a predict_at column with key_window = "7d", got none'),
        ({"key_window": 0}, r"stream\.key_window: expected at least 1 row or a duration, got 0"),
        ({"key_window": "x", "predict_at": "at"}, r"stream\.key_window: expected a duration such as .* got 'x'"),
        ({"key": "late"}, r"stream\.key: expected a column other than the label, got 'late'"),
    ],
)
def test_what_keys_a_job_refuses(tmp_path: Path, section: dict[str, Any], message: str) -> None:
    write(tmp_path, flights(10), 1)
    with pytest.raises(JobError, match=message):
        job(tmp_path, **section).data()


def test_keys_are_no_features_and_several_columns_are_one_key(tmp_path: Path) -> None:
    table = flights(20)
    table = table.append_column("id", pa.array([*range(10), *range(10)])).append_column(
        "shop", pa.array(["a"] * 10 + ["a", "b"] * 5)
    )
    write(tmp_path, table, 1)
    document = job(tmp_path, key=["id", "shop"]).document()
    for key in ("numeric", "categorical"):
        document["features"].pop(key)
    found = Job.from_document(document).resolved()
    assert "id" not in found.features.numeric
    assert "shop" not in found.features.categorical
    steps = list(found.data().increments())
    assert [row for step in steps for row in step.duplicates.tolist()] == [10, 12, 14, 16, 18]
