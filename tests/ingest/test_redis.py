"""Entries of a real Redis become rows, each once, whatever is killed; those of no use are set aside with their ids."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

pytest.importorskip("redis")

from incr_core.errors import ArgumentError, EngineError
from incr_core.ingest import LandingTable, Room
from incr_core.ingest._payload import rows_of
from incr_core.ingest.redis import RedisIngest
from incr_core.job import Job
from incr_core.runs import run
from tests.support.ingested import audited, follows, ingesting, landed, numbered
from tests.support.processes import wait_until
from tests.support.redis_server import RedisServer, redis_server

SCHEMA = pa.schema({"id": pa.int64(), "at": pa.timestamp("us"), "name": pa.string()})


@pytest.fixture
def broker() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@contextmanager
def consuming(broker: RedisServer, folder: Path, **how: Any) -> Iterator[RedisIngest]:
    """A consumer in a thread, which has to end without an error."""
    consumer, stop, faults = RedisIngest(f"{broker.url}/people", folder, **how), threading.Event(), list[Exception]()

    def work() -> None:
        try:
            consumer.run(stop)
        except Exception as error:
            faults.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield consumer
    finally:
        stop.set()
        thread.join()
    assert faults == []


def add(broker: RedisServer, rows: Any) -> None:
    broker.client.xadd("people", {"json": json.dumps(rows)})


def arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def pending(broker: RedisServer) -> int:
    return int(broker.client.xpending("people", "incr")["pending"])


def test_json_and_arrow_entries_are_learned_and_acknowledged(broker: RedisServer, tmp_path: Path) -> None:
    table = numbered(60).drop_columns(["at"])
    with consuming(broker, tmp_path / "data") as consumer:
        for row in table.slice(0, 20).to_pylist():
            add(broker, row)
        add(broker, table.slice(20, 20).to_pylist())
        wait_until(lambda: consumer.landed == 21)
        schema = consumer.table.schema
        assert schema is not None
        broker.client.xadd("people", {"arrow": arrow(table.slice(40).cast(schema))})
        wait_until(lambda: consumer.landed == 22)
    assert pending(broker) == 0
    assert landed(tmp_path / "data/people") == list(range(60))
    job = Job.written(follows(tmp_path / "data/people", tmp_path / "job.toml")).resolved()
    run(job, tmp_path / "run")
    audited(tmp_path / "run", 60)


def test_entries_that_landed_before_a_kill_are_acknowledged_and_not_written_again(
    broker: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(5):
        add(broker, {"id": n})
    broker.client.xadd("people", {"text": "n/a"})
    consumer = RedisIngest(f"{broker.url}/people", tmp_path)

    class KilledError(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise KilledError

    monkeypatch.setattr(consumer._client, "xack", killed)
    with pytest.raises(KilledError):
        consumer.run(threading.Event())
    assert landed(tmp_path / "people") == list(range(5))
    assert pending(broker) == 6
    add(broker, {"id": 5})
    with consuming(broker, tmp_path) as after:
        wait_until(lambda: after.landed == 1)
        wait_until(lambda: pending(broker) == 0)
        assert after.repeated == 5
        assert after.bad == 0  # it is in the quarantine already
    assert landed(tmp_path / "people") == list(range(6))
    assert len(list((tmp_path / "people/.quarantine").iterdir())) == 1


def test_malformed_entries_are_set_aside_and_good_ones_go_on(
    broker: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"at": "2026-01-02T03:04:05", "name": None}
    bad: list[dict[Any, Any]] = [
        {"json": "{"},
        {"json": "[]"},
        {"json": "[1]"},
        {"json": '{"id": NaN, "at": null, "name": null}'},
        {"json": json.dumps({"id": 1})},
        {"json": json.dumps({"id": 1, "more": 2, **good})},
        {"json": json.dumps({"id": "one", **good})},
        {"json": json.dumps({"id": 2**70, **good})},
        {"json": json.dumps({"id": 1, **good, "at": "yesterday"})},
        {"json": "[" * 100_000},
        {"json": b"\xff\xfe"},
        {"arrow": b"no arrow"},
        {"arrow": arrow(pa.table({"id": ["one"]}))},
        {"text": "x"},
        {"json": "{}", "arrow": b""},
        {"json": json.dumps({"id": 1, **good, "name": "x" * 2000})},
    ]
    with consuming(broker, tmp_path, schema=SCHEMA, max_bytes=1900) as consumer:
        add(broker, {"id": 0, **good})
        added = [str(broker.client.xadd("people", fields), "ascii") for fields in bad]  # type: ignore[arg-type]
        add(broker, {"id": 1, **good})
        wait_until(lambda: consumer.landed == 2)
        wait_until(lambda: pending(broker) == 0)
        assert consumer.bad == len(bad)
    assert landed(tmp_path / "people") == [0, 1]
    files = sorted((tmp_path / "people/.quarantine").iterdir())
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert [line["id"] for line in lines] == added
    assert all(line["reason"] and line["fields"] for line in lines)
    assert "entries in quarantine: " in capsys.readouterr().err


def test_a_server_that_goes_away_and_returns_loses_nothing(
    broker: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with consuming(broker, tmp_path) as consumer:
        add(broker, {"id": 0})
        wait_until(lambda: consumer.landed == 1)
        broker.kill()
        time.sleep(0.3)
        broker.start()
        add(broker, {"id": 1})
        wait_until(lambda: consumer.landed == 2)
    assert landed(tmp_path / "people") == [0, 1]
    told = capsys.readouterr().err
    assert told.count("does not answer") == 1
    assert "answers again" in told


def test_a_deleted_group_begins_behind_what_has_landed(broker: RedisServer, tmp_path: Path) -> None:
    with consuming(broker, tmp_path) as consumer:
        add(broker, {"id": 0})
        wait_until(lambda: consumer.landed == 1)
        broker.client.xgroup_destroy("people", "incr")
        add(broker, {"id": 1})
        wait_until(lambda: consumer.landed == 2)
        assert consumer.repeated == 0
    assert landed(tmp_path / "people") == [0, 1]


def test_a_full_folder_leaves_entries_with_the_broker(broker: RedisServer, tmp_path: Path) -> None:
    with consuming(broker, tmp_path, room=Room(1)) as consumer:
        add(broker, {"id": 0})
        wait_until(lambda: consumer.landed == 1)
        add(broker, {"id": 1})
        time.sleep(0.7)
        assert (consumer.landed, pending(broker)) == (1, 0)
        next((tmp_path / "people").glob("*.arrow")).rename(tmp_path / "taken.arrow")
        wait_until(lambda: consumer.landed == 2)
    assert LandingTable(tmp_path, "people").positions.keys() == {"redis:people"}


def test_a_key_that_is_no_stream_and_a_wrong_password_are_errors(broker: RedisServer, tmp_path: Path) -> None:
    broker.client.set("people", "x")
    with pytest.raises(EngineError, match="expected a stream under the key people"):
        RedisIngest(f"{broker.url}/people", tmp_path).run(threading.Event())
    broker.client.config_set("requirepass", "secret")
    with pytest.raises(EngineError, match="expected access") as found:
        RedisIngest(f"redis://:guess@127.0.0.1:{broker.port}/people", tmp_path).run(threading.Event())
    assert "guess" not in str(found.value)


@pytest.mark.parametrize(
    "address", ["http://host/people", "redis://host", "redis://host/people?db=x", "redis:///people"]
)
def test_an_address_without_a_stream_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="from: expected"):
        RedisIngest(address, tmp_path)


def test_the_first_rows_need_values() -> None:
    with pytest.raises(ArgumentError, match="column x: expected a value in the first rows, got null; give --schema"):
        rows_of({b"json": b'{"x": null}'}, None, 100)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.chaos)])
def test_a_killed_consumer_lands_each_entry_once(kills: int, broker: RedisServer, tmp_path: Path) -> None:
    draw, total, ended = random.Random(kills), 0, threading.Event()

    def produce() -> None:
        nonlocal total
        while not ended.is_set():
            add(broker, [{"id": total}, {"id": total + 1}])
            total += 2
            time.sleep(0.001)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        for _ in range(kills):
            with ingesting(tmp_path, "--from", f"{broker.url}/people") as (process, _):
                time.sleep(draw.uniform(0.05, 1.0))
                process.kill()
                process.wait()
    finally:
        ended.set()
        producer.join()
    with ingesting(tmp_path, "--from", f"{broker.url}/people"):
        wait_until(lambda: len(landed(tmp_path / "people")) >= total)
    assert landed(tmp_path / "people") == list(range(total))
    assert pending(broker) == 0
