"""Many rows at once, as an Arrow stream: answered as `incr predict` does, or refused before they cost anything."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pyarrow as pa
import pytest

pytest.importorskip("httptools")

from incr_core.serving import App, Champion
from tests.support.asked import Asking, learned, rows, state

ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Champion:
    return Champion(learned(tmp_path_factory.mktemp("asked")))


@pytest.fixture
def asking(champion: Champion) -> Iterator[Asking]:
    made = Asking(App(champion, max_rows=100))
    before = state(champion.current.version)
    yield made
    assert state(champion.current.version) == before
    made.close()


def stream(table: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=7)
    return bytes(sink.getvalue())


def told(asking: Asking, body: bytes) -> tuple[int, str]:
    status, answer = asking.post(body, content_type=ARROW)
    return status, json.loads(answer)["detail"]


def test_a_table_is_answered_as_predict_does(champion: Champion, asking: Asking) -> None:
    table = rows(50, seed=3).drop_columns(["y"])
    status, body = asking.post(stream(table), content_type=ARROW)
    assert status == 200, body
    answer = pa.ipc.open_stream(body).read_all()
    assert answer.schema.metadata == {b"version": str(champion.current.version.number).encode()}
    expected = champion.current.version.predict(table)
    assert answer["probability"] == expected["probability"]
    assert answer["refused"].null_count == 50


def test_rows_that_cannot_be_used_have_a_reason(asking: Asking) -> None:
    table = rows(3, seed=3)
    table = table.set_column(0, "height", pa.array([170.0, float("nan"), 1e39]))
    answer = pa.ipc.open_stream(asking.post(stream(table), content_type=ARROW)[1]).read_all()
    assert answer["probability"].is_null().to_pylist() == [False, True, True]
    assert answer["refused"].to_pylist() == [
        None,
        "height: expected a finite number, got NaN or infinite",
        "height: expected a float32, got too large for one",
    ]


def test_what_would_cost_much_is_refused_before_it_is_read(asking: Asking) -> None:
    assert told(asking, stream(rows(20), "zstd"))[0] == 415
    assert told(asking, stream(rows(20), "lz4"))[0] == 415
    assert told(asking, stream(rows(2001)))[0] == 413
    nulls = pa.BufferOutputStream()
    table = pa.table({"x": pa.nulls(1_000_000_000)})
    with pa.ipc.new_stream(nulls, table.schema) as writer:
        writer.write_table(table)
    assert len(nulls.getvalue()) < 1000
    assert told(asking, bytes(nulls.getvalue())) == (
        413,
        "rows: expected at most 2,000, got more; ask in several requests",
    )
    words = pa.table({"colour": pa.DictionaryArray.from_arrays([0] * 20, pa.array(["x" * 1000]))})
    assert told(asking, stream(words, "zstd"))[0] == 415


def test_what_is_no_stream_or_no_rows_of_the_job_is_refused(asking: Asking) -> None:
    for body in (b"", b"{}", b"ARROW1\0\0", stream(rows(20))[:-300], b"\xff" * 64):
        assert told(asking, body)[0] in (400, 422), body[:20]
    assert told(asking, stream(rows(0)))[0] == 422
    assert told(asking, stream(rows(5).drop_columns(["colour"])))[1].startswith("the request: expected the columns")
    wide = rows(5, width=5)
    assert told(asking, stream(wide))[1].startswith("stream.features.image: expected lists of 4 numbers")
    named = stream(rows(5).rename_columns(["height", "image", "colour", "at", "zzzz"]))
    assert told(asking, named.replace(b"zzzz", b"z\xff\xffz"))[0] == 400  # a name that is no text
    twice = pa.table([rows(5)["y"]] * 2, names=["y", "y"])
    assert told(asking, stream(twice))[0] == 400


@pytest.mark.slow
def test_streams_with_other_bytes_in_them_are_answered_or_refused(asking: Asking) -> None:
    draw, body = random.Random(5), stream(rows(20).drop_columns(["y"]))
    good = asking.post(body, content_type=ARROW)
    statuses = set()
    for _ in range(2000):
        other = bytearray(body)
        for _ in range(draw.randint(1, 4)):
            other[draw.randrange(len(other))] = draw.randrange(256)
        status, answer = asking.post(bytes(other), content_type=ARROW)
        assert status in (200, 400, 413, 415, 422), answer
        statuses.add(status)
    assert {200, 400} <= statuses
    assert asking.post(body, content_type=ARROW) == good
