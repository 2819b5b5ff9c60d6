"""How wide a row is, is decided once: a file of another width is a bad file, on whichever side it is met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.data.encoding import Encoder
from incr_core.data.encoding._widths import check_widths, list_widths
from incr_core.data.sources import open_source
from incr_core.data.timeline import Stream
from incr_core.errors import RunDirectoryError, StreamError
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.runs import Version, run

pytestmark = pytest.mark.slow


def images(width: int, rows: int = 20, *, fixed: bool = True) -> pa.Array:
    values = np.random.default_rng(width).normal(size=(rows, width)).astype(np.float32)
    if fixed:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)
    return pa.array(values.tolist(), pa.list_(pa.float32()))


def write(path: Path, image: Any, age: Any = None, rows: int = 20) -> Path:
    labels = [index % 2 for index in range(rows)]
    age = list(range(rows)) if age is None else age
    pq.write_table(pa.table({"image": image, "age": age, "y": labels}), path)
    return path


def job(path: Path, **features: Any) -> Job:
    document = {
        "stream": {"path": str(path), "every": 10},
        "features": {"label": "y", "numeric": ["image", "age"], "classes": [0, 1], **features},
        "model": {"hidden": [4]},
        "learner": {"objective": "binary"},
    }
    return Job.from_document(document)


def told(expected: str, got: str, column: str = "image") -> str:
    return (
        f"stream.features.{column}: expected {expected}, got {got} in b.parquet; "
        "write it as the rows that the run began with, or take it out"
    )


@pytest.mark.parametrize(
    ("first", "second", "age", "message"),
    [
        (images(4), images(5), None, told("lists of 4 numbers", "lists of 5")),
        (images(4), images(5, fixed=False), None, told("lists of 4 numbers", "lists of 5")),
        (images(4), [[1.0] * 2, [1.0] * 7] * 10, None, told("lists of 4 numbers", "lists of 2 to 7")),
        (images(4), [1.0] * 20, None, told("lists of 4 numbers", "double")),
        (list(range(20)), images(1), None, told("a number", "lists of 1")),
        (images(4), images(4), [[1.0]] * 20, told("a number", "lists of 1", "age")),
    ],
)
def test_a_file_of_another_width_is_refused_by_its_name(
    tmp_path: Path, first: Any, second: Any, age: Any, message: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "a.parquet", first)
    write(folder / "b.parquet", second, age)
    with pytest.raises(StreamError) as found:
        run(job(folder).resolved(), tmp_path / "run")
    assert str(found.value) == message
    # What was learned of the file before stands, and answers as if there had been no other.
    alone = tmp_path / "alone"
    run(job(write(tmp_path / "only.parquet", first)).resolved(), alone)
    version = Version.load(tmp_path / "run")
    assert version.predict(folder / "a.parquet") == Version.load(alone).predict(folder / "a.parquet")
    with pytest.raises(StreamError, match=r"in b\.parquet"):
        version.predict(folder / "b.parquet")


def test_a_list_of_another_length_among_right_ones_is_a_bad_row(tmp_path: Path) -> None:
    ragged = [[1.0] * 4] * 19 + [[1.0] * 5]
    write(tmp_path / "a.parquet", ragged)
    run(job(tmp_path / "a.parquet", on_bad_row="quarantine").resolved(), tmp_path / "run")
    [bad] = RunDirectory.open(tmp_path / "run").table("quarantine").to_pylist()
    assert (bad["offset"], bad["column"], bad["reason"]) == (19, "image", "expected 4 numbers, got of another length")


def test_the_job_says_how_long_lists_are_and_a_version_needs_nothing_else(tmp_path: Path) -> None:
    data = write(tmp_path / "a.parquet", images(4))
    resolved = job(data).resolved()
    assert resolved.features.widths == {"image": 4}
    assert resolved.encoder.width == 5
    assert "[features.widths]\nimage = 4\n" in resolved.toml()
    run(resolved, tmp_path / "run")
    new = write(tmp_path / "new.parquet", images(4))
    answer = Version.load(tmp_path / "run").predict(new)
    write(data, images(5))  # whatever comes to lie there later
    assert Version.load(tmp_path / "run").predict(new) == answer
    # A job file may say it itself, and is believed: then it is the data that is wrong.
    with pytest.raises(StreamError, match=r"expected lists of 3 numbers, got lists of 5 in a\.parquet"):
        run(job(data, widths={"image": 3}).resolved(), tmp_path / "other")
    # Other columns are measured anew.
    assert resolved.with_settings(['features.numeric=["age"]']).encoder.width == 1


def test_a_run_keeps_its_widths_whatever_files_come_or_go(tmp_path: Path) -> None:
    """Of a job that is resolved for the run, as the command line does, and of one that was resolved by itself."""
    folder, out = tmp_path / "data", tmp_path / "run"
    folder.mkdir()
    write(folder / "a.parquet", images(4))
    run(job(folder).resolved(), out)
    (folder / "a.parquet").unlink()
    write(folder / "b.parquet", images(5))
    assert job(folder).resolved(out).features.widths == {"image": 4}
    assert job(folder).resolved().features.widths == {"image": 5}
    for again in (job(folder).resolved(out), job(folder).resolved()):
        with pytest.raises(StreamError) as found:
            run(again, out)
        assert str(found.value) == told("lists of 4 numbers", "lists of 5")
    assert run(job(folder, on_bad_file="quarantine").resolved(), out).summary.files_quarantined == 1
    with pytest.raises(RunDirectoryError, match=r"features.widths.image: 4 there, 5 here"):
        run(job(folder, widths={"image": 5}).resolved(), out)


def test_widths_that_a_job_says_in_part_are_no_less_its_own_when_the_run_goes_on(tmp_path: Path) -> None:
    data, out = tmp_path / "a.parquet", tmp_path / "run"
    labels = [index % 2 for index in range(20)]
    pq.write_table(pa.table({"image": images(4), "age": images(3), "y": labels}), data)
    run(job(data, widths={"image": 4}).resolved(), out)
    run(job(data, widths={"image": 4}).resolved(), out)
    with pytest.raises(RunDirectoryError, match=r"features.widths.image: 4 there, 5 here"):
        run(job(data, widths={"image": 5}).resolved(), out)


def test_where_the_first_rows_do_not_tell_the_next_ones_do(tmp_path: Path) -> None:
    nothing, unsaid = pa.nulls(20, pa.list_(pa.float32())), pa.array([[]] * 20, pa.list_(pa.float32()))
    for number, image in enumerate([pa.nulls(20), nothing, unsaid, images(4, fixed=False), images(5, fixed=False)]):
        write(tmp_path / f"{number}.parquet", image)
    assert list_widths(open_source(tmp_path), ["image", "age"]) == {"image": 4}
    with pytest.raises(StreamError) as found:
        list_widths(open_source(tmp_path / "1.parquet"), ["image", "age"])
    assert str(found.value) == (
        "stream.features.image: expected a list of known length, got only null and empty ones; "
        "set features.widths = { image = 784 }"
    )
    assert list_widths(open_source(tmp_path / "0.parquet"), ["image"]) == {}
    run(job(tmp_path).resolved().with_settings(['stream.path="' + str(tmp_path / "3.parquet") + '"']), tmp_path / "run")


def test_a_column_of_nulls_fits_lists_and_numbers() -> None:
    encoder = Encoder("y", ["image", "age"], [], objective="binary", classes=None, widths={"image": 2})
    table = pa.table({"image": pa.nulls(1), "age": pa.nulls(1), "y": [1]})
    encoder.check(table, "a.jsonl")
    stream = Stream(lambda: [table], encoder=encoder)
    [step] = stream.increments()
    assert step.arriving.inputs.isnan().tolist() == [[True] * 3]  # type: ignore[union-attr]


def test_tokens_to_predict_may_lack_the_last_one() -> None:
    table = pa.table({"words": [[1, 2, 3]]})
    check_widths(table, {"words": 4}, ["words"], "here", spare=1)
    for width, spare in ((4, 0), (2, 1)):
        with pytest.raises(StreamError, match=f"expected lists of {width} numbers, got lists of 3 in here"):
            check_widths(table, {"words": width}, ["words"], "here", spare)
