"""A stream whose files are objects in a store: the same rows, row ids and bits as from a folder, on every engine."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from incr_core.data.sources import open_source
from incr_core.errors import ArgumentError, StoreError, StreamError
from incr_core.job import Job
from incr_core.runs import Run, run
from incr_core.storage import ObjectStore
from tests.support.made_up import made_up
from tests.support.ports import free_port
from tests.support.s3_server import endpoint, refusing

DOCUMENT: dict[str, Any] = {
    "name": "people",
    "stream": {"path": "", "every": 100, "settle": "0s"},
    "features": {"label": "tall", "numeric": ["height", "weight"], "categorical": ["colour"], "buckets": 16},
    "model": {"hidden": [8], "embedding": 4},
    "learner": {"objective": "binary", "batch_size": 16},
}


def job(path: str, **stream: Any) -> Job:
    return Job.from_document({**DOCUMENT, "stream": {**DOCUMENT["stream"], "path": path, **stream}}).resolved()


def put(folder: Path, address: str) -> None:
    """The files of a folder as objects."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            fsspec.filesystem(address.partition(":")[0]).put_file(str(file), f"{address}/{file.relative_to(folder)}")


def write(folder: Path, kind: str) -> None:
    """The made-up table in three files of a format."""
    folder.mkdir()
    for number in range(3):
        table, name = made_up(470).slice(number * 150, 150 if number < 2 else 170), f"part-{number}.{kind}"
        if kind == "parquet":
            pq.write_table(table, folder / name, row_group_size=64)
        elif kind == "arrow":
            pyarrow.feather.write_feather(table, str(folder / name))
        elif kind == "csv":
            pyarrow.csv.write_csv(table, folder / name)
        else:
            lines = table.to_pandas().to_json(orient="records", lines=True, date_format="iso").encode()
            (folder / name).write_bytes(gzip.compress(lines) if kind.endswith("gz") else lines)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv", "jsonl", "jsonl.gz"])
def test_objects_are_learned_as_files_are(tmp_path: Path, place: str, kind: str) -> None:
    write(tmp_path / "data", kind)
    put(tmp_path / "data", place)
    here = run(job(str(tmp_path / "data")), tmp_path / "here").summary
    there = run(job(place), tmp_path / "there").summary
    assert there.model_sha256 == here.model_sha256
    assert there.rows_learned == 470
    ledgers = [Run(tmp_path / name).table("ledger") for name in ("here", "there")]
    assert ledgers[0].equals(ledgers[1])


def test_a_glob_and_a_single_object(tmp_path: Path, place: str) -> None:
    write(tmp_path / "data", "csv")
    put(tmp_path / "data", place)
    assert open_source(f"{place}/part-*.csv").names == ["part-0.csv", "part-1.csv", "part-2.csv"]
    assert open_source(f"{place}/part-1.csv").names == ["part-1.csv"]
    with pytest.raises(StreamError, match="where nothing is"):
        open_source(f"{place}/none")


def test_an_object_that_was_written_anew_is_noticed(tmp_path: Path, place: str) -> None:
    write(tmp_path / "data", "parquet")
    put(tmp_path / "data", place)
    run(job(place), tmp_path / "out")
    pq.write_table(made_up(150, seed=3), tmp_path / "data" / "part-1.parquet")
    put(tmp_path / "data", place)
    with pytest.raises(StreamError, match=r"part-1\.parquet has changed since the run read it"):
        run(job(place), tmp_path / "out")


@pytest.mark.slow
def test_rows_behind_those_of_an_object_are_learned(tmp_path: Path, place: str) -> None:
    write(tmp_path / "data", "csv")
    put(tmp_path / "data", place)
    run(job(place), tmp_path / "out")
    with open(tmp_path / "data" / "part-2.csv", "a") as file:
        file.write("".join(f"{line}\n" for line in (tmp_path / "data/part-0.csv").read_text().splitlines()[1:11]))
    put(tmp_path / "data", place)
    assert run(job(place), tmp_path / "out").summary.rows_learned == 480


def test_a_version_predicts_the_rows_of_an_object(tmp_path: Path, place: str) -> None:
    write(tmp_path / "data", "parquet")
    put(tmp_path / "data", place)
    version = run(job(place), tmp_path / "out").champion
    assert version.predict(f"{place}/part-1.parquet").equals(version.predict(tmp_path / "data" / "part-1.parquet"))


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), pytest.param(503, "SlowDown", marks=pytest.mark.chaos)]
)
def test_a_store_that_refuses_is_told_of(status: int, code: str) -> None:
    what = "the store refuses" if status == 403 else "the store is too busy"
    with refusing(status, code) as bucket, pytest.raises(StoreError, match=rf"s3://.*cannot be read: {what}"):
        open_source(f"{bucket}/days")


@pytest.mark.slow
def test_a_store_that_is_not_there_is_told_of() -> None:
    with endpoint(f"http://127.0.0.1:{free_port()}"), pytest.raises(StoreError, match="does not answer as expected"):
        open_source("s3://bucket/days")


@pytest.mark.slow
@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_a_store_that_goes_away_puts_no_file_in_quarantine(tmp_path: Path, place: str) -> None:
    write(tmp_path / "data", "parquet")
    put(tmp_path / "data", place)
    source = open_source(place, tolerant=True)
    fragments = list(source.fragments())
    with refusing(503, "SlowDown"), pytest.raises(StoreError):
        fragments[0].load(["height"])
    assert fragments[0].load(["height"]).num_rows == 150
    assert isinstance(fragments[0].load(["height"]), pa.Table)


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("gcs", "gcsfs"), ("abfs", "adlfs"), ("az", "adlfs")])
def test_an_address_whose_package_is_missing_says_what_to_install(
    scheme: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)  # another test has used it
    extra = "gs" if package == "gcsfs" else "abfs"
    with pytest.raises(ArgumentError, match=rf"{scheme}://bucket/days: .* pip install 'incr\[{extra}\]'"):
        open_source(f"{scheme}://bucket/days")


def test_a_bucket_that_is_not_there_is_asked_for(bucket: str) -> None:
    with pytest.raises(StoreError, match=r"nowhere/run: expected an existing bucket.*create the bucket"):
        ObjectStore(f"{bucket.partition('://')[0]}://nowhere/run").create("manifest/1", b"one")
