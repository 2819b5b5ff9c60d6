"""A look back at the history: rows drawn from the ledger, read back by their addresses, learned once more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.batch import cat
from incr_core.data.sources import file_fingerprint
from incr_core.data.timeline import ByHash
from incr_core.engines import LocalEngine
from incr_core.errors import JobError, StreamError
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.registry import RunDirectory, add_erased
from incr_core.registry.ledger import check, count, entry_table
from incr_core.rounds._review import draw_rows
from incr_core.runs import run
from tests.support.streams import encoder, flights, same_batch, stream, write


@pytest.mark.parametrize("partition", [None, ByHash("carrier", 0, 2)])
@pytest.mark.parametrize("rates", [True, False])
def test_rows_come_back_as_they_were_when_they_were_learned(tmp_path: Path, rates: bool, partition: Any) -> None:
    write(tmp_path / "rows", flights(900), 4)
    changes: dict[str, Any] = {"partition": partition} | ({} if rates else {"rates": ()})
    given = list(stream(tmp_path / "rows", **changes).increments())
    learned = cat([step.labelled for step in given])
    assert learned.row_ids is not None
    chosen = torch.randperm(len(learned), generator=torch.Generator().manual_seed(0))[:200]
    expected = learned.take(chosen)
    assert expected.row_ids is not None
    expected = expected.take(expected.row_ids.argsort())
    again = stream(tmp_path / "rows", **changes)
    assert again.numeric_width
    found = again.read_back(learned.row_ids[chosen], given[-1].cursor)
    assert found is not None
    assert same_batch(found, expected)


def test_only_the_row_groups_that_hold_the_rows_are_read(tmp_path: Path) -> None:
    table = flights(1_000)
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=100)
    plain: dict[str, Any] = {"every": 500, "predict_at": None, "label_at": None, "rates": ()}
    reader = stream(tmp_path / "rows.parquet", **plain)
    cursor = next(reader.increments()).cursor
    rows = torch.tensor([3, 99, 100, 450, 999])
    found = reader.read_back(rows, cursor)
    assert found is not None
    expected = encoder().encode(table.take(rows.tolist()), rows, "rows").batch
    assert same_batch(found, expected)
    # Spoil a row group that none of them is in: nobody notices.
    with pq.ParquetFile(tmp_path / "rows.parquet") as file:
        column = file.metadata.row_group(7).column(2)
        start, size = column.dictionary_page_offset or column.data_page_offset, column.total_compressed_size
    content = bytearray((tmp_path / "rows.parquet").read_bytes())
    content[start : start + size] = bytes(size)
    (tmp_path / "rows.parquet").write_bytes(content)
    cursor |= {"fingerprints": {"rows.parquet": file_fingerprint(tmp_path / "rows.parquet")}}
    assert same_batch(reader.read_back(rows, cursor) or expected.slice(0, 0), expected)
    with pytest.raises(StreamError, match="expected a whole parquet file"):
        reader.read_back(torch.tensor([750]), cursor)


def test_files_that_are_gone_are_left_out_and_changed_ones_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "rows", flights(400), 2)
    for changes in ({}, {"rates": ()}):
        reader = stream(folder, **changes)
        given = list(reader.increments())
        rows = torch.cat([step.labelled.row_ids for step in given if step.labelled.row_ids is not None])
        (folder / "part-0.parquet").rename(tmp_path / "away")
        found = reader.read_back(rows, given[-1].cursor)
        assert found is not None
        assert found.row_ids is not None
        assert torch.equal(found.row_ids, rows[rows >= 1 << 40].sort().values)
        (tmp_path / "away").rename(folder / "part-0.parquet")
    write(tmp_path / "rows", flights(500), 2)
    with pytest.raises(StreamError, match="has changed since the run read it"):
        reader.read_back(rows, given[-1].cursor)


def test_every_row_is_as_likely_and_when_it_was_committed_makes_no_difference() -> None:
    names = ["a", "b"]
    first, second = torch.arange(0, 300), torch.arange(300, 500)
    other = torch.arange(1 << 40, (1 << 40) + 500)
    ledger = entry_table(1, "one", first, names, increment=0)
    drawn = draw_rows(200, [0, 7], {"one": [second], "two": [other]}, ledger, names)
    late = draw_rows(200, [0, 7], {"two": [other], "one": [second, first]}, ledger.slice(0, 0), names)
    assert drawn.keys() == late.keys()
    assert all(torch.equal(drawn[name], late[name]) for name in drawn)
    times = np.zeros(1_000)
    for seed in range(400):
        for name, rows in draw_rows(200, [seed], {"one": [second], "two": [other]}, ledger, names).items():
            times[(rows % (1 << 40)).numpy() + 500 * (name == "two")] += 1
    assert times.sum() == 400 * 200
    # Each count is binomial with mean 80 and variance 64: 1,000 of them stray no further than five deviations.
    assert abs(times - 80).max() < 40
    assert 0.8 < times.var() / 64 < 1.2


def reviewing(flights_job: Callable[..., Job], *settings: str) -> Job:
    return flights_job("publish.every=3", "review.rows=300", *settings)


@pytest.mark.slow
@pytest.mark.parametrize("every", ["review.every=3", 'review.every="1d"'])
def test_a_resumed_run_reviews_the_same_rows(flights_job: Callable[..., Job], tmp_path: Path, every: str) -> None:
    job = reviewing(flights_job, every)
    whole = run(job, tmp_path / "whole").summary
    plain = run(flights_job("publish.every=3"), tmp_path / "plain").summary
    assert whole.events["review"] >= 4
    assert whole.model_sha256 != plain.model_sha256
    assert whole.rows_learned == plain.rows_learned
    for stop in (4, 6, 11):
        stopping(job, tmp_path / "parts", stop)
    parts = run(job, tmp_path / "parts").summary
    assert (parts.model_sha256, parts.events) == (whole.model_sha256, whole.events)
    directory = RunDirectory.open(tmp_path / "parts")
    check(directory.table("ledger"))
    assert count(directory.table("ledger")) == whole.rows_learned
    assert set(directory.table("events")["rows"].to_pylist()) == {300}


@pytest.mark.slow
def test_a_review_of_which_every_row_is_erased_is_none(flights_job: Callable[..., Job], tmp_path: Path) -> None:
    plain = run(flights_job("publish.every=3", "outer=nesterov"), tmp_path / "plain").summary
    job = reviewing(flights_job, "review.every=3", "outer=nesterov")
    stopping(job, tmp_path / "erased", 1)
    for entry in pq.read_table(tmp_path / "plain" / "ledger").to_pylist():
        offsets = [offset for part in entry["ranges"] for offset in range(part["start"], part["stop"])]
        gone = pa.table({"fragment": [entry["fragment"]] * len(offsets), "offset": offsets})
        add_erased(tmp_path / "erased", gone)
    erased = run(job, tmp_path / "erased").summary
    assert (erased.events, erased.model_sha256) == (plain.events, plain.model_sha256)


def stopping(job: Job, out: Path, increments: int) -> None:
    with RunDirectory.create(out, job.toml(), f"local:{job.fingerprint()}") as directory:
        loop = Loop(job, LocalEngine(job, out), directory)
        loop.on_progress = lambda _: loop._stop.set() if loop.totals.increments >= increments else None
        loop.run()
        loop.engine.close()


def test_memories_take_no_notice_of_a_review(flights_job: Callable[..., Job], tmp_path: Path) -> None:
    job = reviewing(flights_job, "review.every=2")
    with RunDirectory.create(tmp_path, job.toml(), "f") as directory:
        engine = LocalEngine(job, tmp_path)
        loop = Loop(job, engine, directory)
        loop.run()
    [memory] = engine.participant.learner.memories()
    assert memory.seen == loop.totals.rows_learned


def test_a_review_beside_gdumb_is_refused_since_nothing_of_it_would_be_left(flights_job: Callable[..., Job]) -> None:
    gdumb = flights_job("review={every=2}", 'strategy=[{name="gdumb"}]')
    with pytest.raises(
        JobError, match=r"review: expected strategies .* got GDumb: it retrains .*; leave \[review\] out"
    ):
        gdumb.reviews()
    assert flights_job("review={every=2}", 'strategy=[{name="gdumb", passes=0}]').reviews() is not None


def test_reviews_by_time_need_times(flights_job: Callable[..., Job], tmp_path: Path) -> None:
    job = flights_job('review={every="7d"}')
    assert job.reviews() is not None
    with pytest.raises(JobError, match=r'review\.every: expected a duration such as "15m"'):
        flights_job('review={every="often"}').reviews()
    with pytest.raises(JobError, match=r"review\.every"):
        flights_job("review={every=0}")
    document = job.document()
    document["stream"] = {"path": document["stream"]["path"], "every": 100}
    document["features"].pop("rate")
    with pytest.raises(JobError, match=r'expected a predict_at column with every = "7d"'):
        Job.from_document(document).reviews()
