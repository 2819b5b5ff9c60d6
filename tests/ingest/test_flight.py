"""Rows over Arrow Flight: durable when acknowledged, each once, refused by name, held back by the limits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import flight

from incr_core.errors import ArgumentError, EngineError, StorageError
from incr_core.ingest import FlightIngest, GroupCommit, Ingest, IngestWriter, LandingTable, Room
from incr_core.job import Job
from incr_core.runs import run
from tests.support.certificates import write_certificates
from tests.support.ingested import audited, follows, landed, numbered


@contextmanager
def served(
    folder: Path, *, token: str | None = None, tls: Any = None, max_bytes: int = 1 << 20, **how: Any
) -> Iterator[Any]:
    commit = GroupCommit(folder, **{"linger": 0.0, **how})
    scheme = "grpc" if tls is None else "grpc+tls"
    server = FlightIngest(f"{scheme}://127.0.0.1:0", commit, token=token, tls=tls, max_bytes=max_bytes)
    try:
        yield f"{scheme}://127.0.0.1:{server.port}", commit
    finally:
        commit.close()
        server.shutdown()


def put(address: str, path: list[str], batches: list[tuple[bytes | None, pa.RecordBatch]]) -> list[dict[str, Any]]:
    """Send batches with these metadata, and return the acknowledgements; Flight's error for a refusal."""
    with flight.connect(address) as client:
        writer, reader = client.do_put(flight.FlightDescriptor.for_path(*path), batches[0][1].schema)
        found: list[dict[str, Any]] = []

        def read() -> None:
            with suppress(flight.FlightError):  # `close` raises it as well
                while (one := reader.read()) is not None:
                    found.append(json.loads(one.to_pybytes()))

        thread = threading.Thread(target=read)
        thread.start()
        try:
            for sequence, batch in batches:
                writer.write_with_metadata(batch, sequence) if sequence else writer.write_batch(batch)
            writer.done_writing()
        finally:
            thread.join()
            writer.close()
        return list(found)


def batches_of(table: pa.Table, rows: int = 10) -> list[pa.RecordBatch]:
    return list(table.to_batches(max_chunksize=rows))


def test_a_run_learns_each_row_once_though_batches_are_repeated(tmp_path: Path) -> None:
    parts = batches_of(numbered(100))
    with served(tmp_path / "data") as (address, _):
        first = put(address, ["people", "a"], [(str(n).encode(), part) for n, part in enumerate(parts[:6], 1)])
        assert first[-1] == {"sequence": 6}
        again = put(address, ["people", "a"], [(str(n).encode(), part) for n, part in enumerate(parts[4:], 5)])
        assert again[0]["sequence"] >= 6
        assert again[-1] == {"sequence": 10}
    with served(tmp_path / "data") as (address, commit):  # positions outlive the process
        put(address, ["people", "a"], [(b"10", parts[9])])
        assert commit.position("people", "a") == 10
        with pytest.raises(flight.FlightServerError, match="sequence: expected 11 or a repetition, got 13"):
            put(address, ["people", "a"], [(b"13", parts[9])])
    assert landed(tmp_path / "data/people") == list(range(100))
    job = follows(tmp_path / "data/people", tmp_path / "job.toml")
    run(Job.written(job).resolved(), tmp_path / "run")
    audited(tmp_path / "run", 100)


def test_writers_land_together_and_a_stream_without_a_name_counts_itself(tmp_path: Path) -> None:
    parts = batches_of(numbered(60))
    with served(tmp_path, linger=0.2) as (address, _):
        threads = [threading.Thread(target=put, args=(address, ["t", f"w{n}"], [(b"1", parts[n])])) for n in range(5)]
        for thread in threads:
            thread.start()
        assert put(address, ["t"], [(None, parts[5])])[-1] == {"sequence": 1}
        for thread in threads:
            thread.join()
    assert sorted(landed(tmp_path / "t")) == list(range(60))
    assert len(list((tmp_path / "t").glob("*.arrow"))) < 6  # one fsync for several


def test_columns_in_another_order_and_other_dictionaries_are_one_table(tmp_path: Path) -> None:
    one = pa.record_batch({"id": [0, 1], "c": pa.array(["a", "b"]).dictionary_encode()})
    two = pa.record_batch({"c": pa.array(["z", "b"]).dictionary_encode(), "id": [2, 3]})
    with served(tmp_path, linger=0.2) as (address, _), IngestWriter(address, "t", "a") as writer:
        writer.write(one)
        with IngestWriter(address, "t", "b") as other:
            other.write(two)
    rows = [
        row
        for file in sorted((tmp_path / "t").glob("*.arrow"))
        for row in pa.ipc.open_file(file).read_all().to_pylist()
    ]
    assert [(row["id"], row["c"]) for row in rows] == [(0, "a"), (1, "b"), (2, "z"), (3, "b")]


@pytest.mark.parametrize(
    ("path", "sequence", "batch", "message"),
    [
        (["t", "a"], b"1", pa.record_batch({"id": ["x"]}), "column id: expected int64, got string"),
        (["t", "a"], b"1", pa.record_batch({"id": [1], "more": [1]}), "column more: expected none, got int64"),
        (["t", "a"], b"1", pa.record_batch({"other": [1]}), "column id: expected int64, got none; column other"),
        (["t", "a"], b"1", pa.record_batch({"id": list(range(200_000))}), "batch: expected at most 1,000,000 bytes"),
        (["t", "a"], b"-1", pa.record_batch({"id": [1]}), "sequence: expected the number of the batch"),
        (["t", "a"], None, pa.record_batch({"id": [1]}), "sequence: expected the number of the batch"),
        (["../t"], None, pa.record_batch({"id": [1]}), "table: expected a name of at most 100 letters"),
        (["t", "a", "b"], None, pa.record_batch({"id": [1]}), "path: expected .TABLE. or .TABLE, WRITER."),
        (["t", "redis:x"], b"1", pa.record_batch({"id": [1]}), "path: expected"),
    ],
)
def test_what_does_not_belong_is_refused_by_name(
    path: list[str], sequence: bytes | None, batch: pa.RecordBatch, message: str, tmp_path: Path
) -> None:
    with served(tmp_path, max_bytes=1_000_000) as (address, _):
        put(address, ["t", "good"], [(b"1", pa.record_batch({"id": [0]}))])
        with pytest.raises(flight.FlightServerError, match=message) as found:
            put(address, path, [(sequence, batch)])
        assert "Traceback" not in str(found.value)
        put(address, ["t", "good"], [(b"2", pa.record_batch({"id": [1]}))])
    assert landed(tmp_path / "t") == [0, 1]


def test_an_invalid_batch_is_refused(tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"\x00\x00\x00\x00\x02\x00\x00\x00")
    broken = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff\xfe")])
    with (
        served(tmp_path) as (address, _),
        pytest.raises(flight.FlightServerError, match="batch: expected valid columns"),
    ):
        put(address, ["t"], [(None, pa.record_batch({"s": broken}))])
    assert not list((tmp_path / "t").glob("*.arrow"))


def test_a_call_without_the_token_is_refused(tmp_path: Path) -> None:
    with served(tmp_path, token="secret") as (address, _):
        for token in (None, "Secret", "secret "):
            with pytest.raises(ArgumentError, match="authorization: expected Bearer and the token"):
                IngestWriter(address, "t", "a", token=token)
        with pytest.raises(flight.FlightUnauthenticatedError):
            put(address, ["t"], [(None, pa.record_batch({"id": [1]}))])
        with IngestWriter(address, "t", "a", token="secret") as writer:
            writer.write(pa.table({"id": [7]}))
    assert landed(tmp_path / "t") == [7]


def test_rows_travel_over_tls(tmp_path: Path) -> None:
    write_certificates(tmp_path / "keys")
    tls = Ingest(tls_cert=str(tmp_path / "keys/server.pem"), tls_key=str(tmp_path / "keys/server.key")).tls()
    with served(tmp_path / "data", tls=tls) as (address, _):
        with IngestWriter(address, "t", "a", ca=tmp_path / "keys/ca.crt") as writer:
            writer.write(pa.table({"id": [7]}))
        with pytest.raises(EngineError, match=r"expected an answer within 0\.2 s"):
            IngestWriter(address, "t", "a", patience=0.2)
    assert landed(tmp_path / "data/t") == [7]


def test_a_full_folder_holds_rows_back_until_the_run_has_learned(tmp_path: Path) -> None:
    parts, out = batches_of(numbered(600), 100), tmp_path / "run"
    limit = 2 * parts[0].nbytes
    room = Room(limit, str(out))
    with served(tmp_path / "data", room=room, pending=limit, max_bytes=1 << 20) as (address, _):
        writer = IngestWriter(address, "people", "a", pending=1 << 20)
        for part in parts:
            writer.write(part)
        deadline = time.monotonic() + 20
        while writer.landed < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        held = writer.landed
        assert 0 < held < 6
        folder = tmp_path / "data/people"
        assert sum(file.stat().st_size for file in folder.glob("*.arrow")) < 3 * limit
        job = Job.written(follows(folder, tmp_path / "job.toml")).resolved()
        while writer.landed < 6:
            run(job, out)
            time.sleep(0.6)
        writer.close()
        run(job, out)
    assert landed(folder) == list(range(600))
    audited(out, 600)


def test_a_folder_that_cannot_be_written_acknowledges_nothing_and_the_client_sends_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = threading.Event()
    land = LandingTable.land

    def on_full_disk(table: LandingTable, *arguments: Any) -> Path:
        if full.is_set():
            raise StorageError(f"{table.folder}: cannot be written: No space left on device (ENOSPC)")
        return land(table, *arguments)

    monkeypatch.setattr(LandingTable, "land", on_full_disk)
    parts = batches_of(numbered(30))
    with served(tmp_path) as (address, _):
        writer = IngestWriter(address, "t", "a")
        writer.write(parts[0])
        writer.flush()
        full.set()
        writer.write(parts[1])
        with pytest.raises(flight.FlightUnavailableError, match="No space left on device"):
            put(address, ["t", "b"], [(b"1", parts[2])])
        assert writer.landed == 1
        full.clear()
        writer.write(parts[2])
        writer.close()
    assert landed(tmp_path / "t") == list(range(30))


def test_a_second_stream_of_a_writer_ends_the_first(tmp_path: Path) -> None:
    commit = GroupCommit(tmp_path, linger=0.0)
    parts = batches_of(numbered(30))
    first = commit.open("t", "a")
    commit.submit(first, 1, parts[0])
    second = commit.open("t", "a")
    with pytest.raises(ArgumentError, match="has begun another stream to t"):
        commit.submit(first, 2, parts[1])
    commit.submit(second, 1, parts[0])
    commit.submit(second, 2, parts[2])
    assert commit.wait(second, 1) == 2
    for one in (first, second):
        commit.end(one)
    commit.close()
    assert landed(tmp_path / "t") == [*range(10), *range(20, 30)]


def test_files_that_are_there_decide_the_columns(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    pq.write_table(pa.table({"id": [1]}), tmp_path / "t/old.parquet")
    with pytest.raises(ArgumentError, match="column id: expected int64, got string"):
        LandingTable(tmp_path, "t").check(pa.schema({"id": pa.string()}))
    with pytest.raises(ArgumentError, match="column id: expected string, got int64"):
        LandingTable(tmp_path, "t", pa.schema({"id": pa.string()}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_pending": 0}, "--max-pending: expected at least 1, got 0"),
        ({"linger": -1.0}, "--linger: expected 0 to 3600 seconds"),
        ({"port": 70_000}, "--port: expected 0 to 65535"),
        ({"tls_cert": "a"}, "--tls-cert, --tls-key: expected both"),
        ({"run": "runs/a"}, "--run: expected --max-unlearned too"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Ingest(**options).check()
