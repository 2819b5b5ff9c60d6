"""Every request to `incr serve` ends in an answer or in a short refusal, and the next one is answered as before."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from incr_core.serving import App, Champion, Column, RequestError, table_of
from incr_core.serving._documented import documented
from tests.support.asked import ROW, Asking, learned, state

VALID = json.dumps({"rows": [ROW, {**ROW, "height": None}, {**ROW, "height": 3.5, "colour": 7}]}).encode()
SHORT = 500


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Champion:
    return Champion(learned(tmp_path_factory.mktemp("asked")))


@pytest.fixture
def asking(champion: Champion) -> Iterator[Asking]:
    """Asks the champion; afterwards a valid request is answered as before, from what it was answered from before."""
    made = Asking(App(champion))
    answer, before = made.post(VALID), state(champion.current.version)
    assert answer[0] == 200, answer
    yield made
    assert made.post(VALID) == answer
    assert state(champion.current.version) == before
    made.close()


def with_value(name: str, value: str) -> bytes:
    """A body with one row, in which a column has this value, as it is written in JSON."""
    return json.dumps({"rows": [{**ROW, name: "VALUE"}]}).replace('"VALUE"', value).encode()


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, 'body: expected {"rows": [{...}, ...]} as JSON, got nothing'),
        (b"\xff{}", 400, "body: expected JSON in UTF-8, got another byte at 0"),
        (
            b"{",
            400,
            "body: expected JSON, got another at character 1: Expecting property name enclosed in double quotes",
        ),
        (b"[" * 200_000, 400, "body: expected rows of plain values, got them nested too deep"),
        (b'{"rows": [' + b'{"a": ' * 100_000, 400, "body: expected rows of plain values, got them nested too deep"),
        (with_value("height", "NaN"), 400, "body: expected JSON, got NaN, which is no number there; write null"),
        (
            with_value("height", "-Infinity"),
            400,
            "body: expected JSON, got -Infinity, which is no number there; write null",
        ),
        (with_value("height", "1" * 5000), 400, "body: expected numbers of at most 4,300 digits, got a longer one"),
        (b'{"rows": [{"a": 1, "a": 2}]}', 400, 'body: expected each name once in an object, got "a" twice'),
        (b"[]", 422, 'body: expected {"rows": [{...}, ...]} with one row at least, got something else'),
        (b'{"rows": []}', 422, 'body: expected {"rows": [{...}, ...]} with one row at least, got something else'),
        (b'{"rows": [1]}', 422, 'body: expected {"rows": [{...}, ...]} with one row at least, got something else'),
        (
            b'{"rows": [' + b"{}," * 100_000 + b"{}]}",
            413,
            "rows: expected at most 10,000, got 100,001; ask in several requests",
        ),
        (b" " * 8_000_001, 413, "body: expected at most 8,000,000 bytes, got more; ask in several requests"),
        (with_value("height", "[1]"), 422, "rows[0].height: expected a number or null, got a list of 1"),
        (with_value("image", "7"), 422, "rows[0].image: expected a list of 4 numbers or null, got another number"),
        (with_value("image", "[1, 2, 3]"), 422, "rows[0].image: expected a list of 4 numbers or null, got a list of 3"),
        (
            with_value("image", '[1, 2, 3, "4"]'),
            422,
            "rows[0].image: expected a list of 4 numbers or null, got a list of 4",
        ),
        (
            with_value("colour", '{"a": 1}'),
            422,
            "rows[0].colour: expected text, a number, true, false or null, got an object",
        ),
        (with_value("colour", r'"\ud800"'), 422, "colour: expected text, got half of a surrogate pair"),
        (
            with_value("at", "true"),
            422,
            "rows[0].at: expected a time as ISO text or epoch seconds or null, got true or false",
        ),
        (
            b'{"rows": [{"height": 1}]}',
            422,
            "rows[0]: expected the columns height, image, colour, at, got none named image, colour, at; add the "
            "missing columns, with null for unknown values",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused_in_a_line(asking: Asking, body: bytes, status: int, told: str) -> None:
    assert asking.post(body) == (status, json.dumps({"detail": told}, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("height", "1" + "0" * 30, None),
        ("height", "1" + "0" * 400, ("height", "expected a finite number, got NaN or infinite")),
        ("height", "1e39", ("height", "expected a float32, got too large for one")),
        ("height", "3e38", None),
        ("height", "true", None),
        ("height", '"170.5"', None),
        ("colour", "1" + "0" * 30, None),
        ("colour", json.dumps("x" * 100_000), None),
        ("image", "[1, 2, 3, 1e999]", ("image", "expected finite numbers, got NaN, null or infinite")),
        ("image", "[1, 2, 3, 1e39]", ("image", "expected finite numbers, got NaN, null or infinite")),
        ("image", "null", None),
        ("image", f"[1, 2, 3, 1{'0' * 400}]", ("image", "expected finite numbers, got NaN, null or infinite")),
        ("at", '"soon"', ("at", "expected a time, got text")),
        ("unknown", '{"a": [1]}', None),
    ],
)
def test_a_value_that_cannot_be_used_leaves_out_its_row_alone(
    asking: Asking, name: str, value: str, reason: tuple[str, str] | None
) -> None:
    body = with_value(name, value)
    status, answer = asking.post(body[:-2] + b"," + json.dumps(ROW).encode() + b"]}")
    assert status == 200, answer
    found = json.loads(answer)
    known = asking.rows(ROW)[1]["predictions"][0]
    assert found["predictions"][1] == pytest.approx(known)
    if reason is not None:
        assert found["refused"] == [{"row": 0, "column": reason[0], "reason": reason[1]}]
        assert found["predictions"][0] is None
    else:
        assert len(found["refused"]) == (found["predictions"][0] is None)


def test_nothing_but_nulls_is_answered(asking: Asking) -> None:
    status, answer = asking.rows(dict.fromkeys(ROW), {**dict.fromkeys(ROW), "at": ROW["at"]})
    assert status == 200
    assert answer["refused"] == [{"row": 0, "column": "at", "reason": "expected a time, got null"}]
    assert answer["predictions"][1] is not None


@pytest.mark.parametrize("name", ROW)
@pytest.mark.parametrize("others", [[], [ROW], [{**ROW, "height": "170.5"}]])
def test_a_missing_key_refuses_the_request_whatever_other_rows_have(
    asking: Asking, name: str, others: list[dict[str, Any]]
) -> None:
    row = {key: value for key, value in ROW.items() if key != name}
    status, answer = asking.rows(*others, row)
    told = f"rows[{len(others)}]: expected the columns height, image, colour, at, got none named {name}; "
    assert (status, answer["detail"][: len(told)]) == (422, told)
    assert asking.rows(*others, {**row, name: ROW[name]})[0] == 200


@pytest.mark.parametrize("value", ["1e400", "-1e400", "1.5", "true", str(2**63), "1" + "0" * 400])
def test_a_task_that_is_no_number_of_one_is_refused(value: str) -> None:
    with pytest.raises(RequestError, match=r"rows\[0\].task: expected the number of a task or null, got"):
        table_of([{"task": json.loads(value)}], {"task": Column("task")})


def test_a_champion_that_cannot_be_looked_for_is_looked_for_again(
    champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Champion(champion.directory)
    faults: list[str | None] = []
    enough = threading.Event()

    def fails(path: object) -> int:
        faults.append(other.fault)
        if len(faults) > 2:
            enough.set()
        if len(faults) == 1:
            raise RuntimeError("the store is away")
        return other.current.version.number

    monkeypatch.setattr("incr_core.serving._champion.champion_of", fails)
    thread = other.follow()
    assert enough.wait(600)
    other.close()
    thread.join()
    assert faults[:3] == [None, "the store is away", None]
    assert other.fault is None


def test_an_answer_that_is_no_number_is_null_and_told(tmp_path: Path) -> None:
    champion = Champion(learned(tmp_path))
    with torch.no_grad():
        list(champion.current.version.learner.model.parameters())[-1].fill_(math.nan)
    asking = Asking(App(champion))
    status, answer = asking.rows(ROW)
    assert (status, answer["predictions"]) == (200, [None])
    reason = "expected a finite answer, got another of the model; its numbers may be too large"
    assert answer["refused"] == [{"row": 0, "column": None, "reason": reason}]
    asking.close()


def test_times_may_be_epoch_seconds_too(asking: Asking) -> None:
    text, seconds = asking.rows(ROW), asking.rows({**ROW, "at": 1577847600}, {**ROW, "at": 1e300})
    assert seconds[1]["predictions"] == [pytest.approx(text[1]["predictions"][0]), None]
    assert seconds[1]["refused"][0]["reason"] == "expected a time, got no epoch seconds (milliseconds?)"
    assert asking.rows(ROW, {**ROW, "at": 1577847600}) == (
        422,
        {"detail": "at: expected times all as text or all as epoch seconds, got both"},
    )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_type": "text/plain"}, 415),
        ({"content_type": ""}, 415),
        ({"content_encoding": "gzip"}, 415),
        ({"content_length": "8000001"}, 413),
        ({"content_type": "Application/JSON; charset=utf-8"}, 200),
    ],
)
def test_headers_decide_before_a_body_is_read(asking: Asking, headers: dict[str, str], status: int) -> None:
    assert asking.post(VALID, **headers)[0] == status


def test_a_header_that_is_not_taken_is_named_with_its_value(asking: Asking) -> None:
    for headers, detail in (
        (
            {"content_type": "text/plain"},
            "content-type: expected application/json or {}, got text/plain; send it as JSON",
        ),
        ({"content_type": ""}, "content-type: expected application/json or {}, got none; send it as JSON"),
        ({"content_encoding": "gzip"}, "content-encoding: expected none, got gzip; send the body uncompressed"),
    ):
        body = asking.post(VALID, **headers)[1]
        assert json.loads(body)["detail"] == detail.format("application/vnd.apache.arrow.stream")


def test_limits_may_be_set_and_hold_for_a_body_in_pieces(champion: Champion) -> None:
    asking = Asking(App(champion, max_bytes=1000, max_rows=2))
    assert asking.rows(ROW, ROW)[0] == 200
    assert asking.rows(ROW, ROW, ROW)[0] == 413
    assert asking.post([b" " * 100] * 10)[0] == 400
    assert asking.post([b" " * 100] * 11)[0] == 413
    asking.close()


# -- thousands ---------------------------------------------------------------------------------------------------------

NASTY: list[Any] = [
    None,
    True,
    0,
    -0.0,
    1e308,
    -1e39,
    10**30,
    -(2**63) - 1,
    2**64,
    "",
    "NaN",
    "\ud800",
    "\x00\x1b[31m",
    "é" * 999,
]
NASTY += [[], {}, [1, 2, 3, 4], [1, 2, 3, 4, 5], [None] * 4, ["a"] * 4, [[1, 2, 3, 4]], {"a": []}, 1577847600]
NASTY += ["2020-01-01", "2020-02-31", "2020-01-01T00:00:00+05:00", "9999-12-31T23:59:59Z", "0000-00-00"]


def check(answer: tuple[int, bytes], body: object) -> None:
    status, text = answer
    assert status in (200, 400, 413, 422), (status, text, body)
    assert status == 200 or len(text) < SHORT, (text, body)
    json.loads(text)


@pytest.mark.slow
def test_thousands_of_strange_bodies_are_answered_or_refused(asking: Asking) -> None:
    draw = random.Random(8)
    answered = 0
    for _ in range(1500):
        rows: list[Any] = [dict(ROW) for _ in range(draw.randint(1, 3))]
        for _ in range(draw.randint(1, 3)):
            draw.choice(rows)[draw.choice([*ROW, "other", "\ud800"])] = draw.choice(NASTY)
        body = json.dumps({"rows": rows}).encode()
        answer = asking.post(body)
        check(answer, body)
        answered += answer[0] == 200
    assert 100 < answered < 1400
    for _ in range(1500):
        cut = bytearray(VALID[: draw.randint(1, len(VALID))])
        for _ in range(draw.randint(0, 4)):
            cut[draw.randrange(len(cut))] = draw.randrange(256)
        check(asking.post(bytes(cut)), cut)
        check(asking.post(draw.randbytes(draw.randint(0, 40))), cut)


@pytest.mark.filterwarnings("ignore:The anyio.abc.BlockingPortal alias:DeprecationWarning")
@pytest.mark.parametrize("kind", ["POSITIVE", "NEGATIVE"])
@pytest.mark.slow
def test_bodies_that_our_own_schema_calls_valid_are_answered(champion: Champion, asking: Asking, kind: str) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    told = App(champion).openapi()
    operation = schemathesis.openapi.from_dict(told)["/predict"]["POST"]
    bodies: list[Any] = []

    @hypothesis.settings(
        max_examples=40,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=getattr(schemathesis.GenerationMode, kind)))
    def ask(case: Any) -> None:
        bodies.append(case.body)
        body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
        answer = asking.post(body)
        check(answer, case.body)
        if kind == "POSITIVE":
            assert answer[0] == 200, (answer, case.body)

    ask()
    assert len(bodies) >= 30


def test_the_schema_tells_the_columns_their_types_and_the_limits(champion: Champion) -> None:
    told = App(champion, max_rows=7).openapi()["paths"]["/predict"]["post"]
    body = told["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["rows"]["maxItems"] == 7
    row = body["properties"]["rows"]["items"]
    assert row["required"] == ["height", "image", "colour", "at"]
    assert row["properties"] == {
        "height": {"type": ["number", "boolean", "null"]},
        "image": {"type": ["array", "null"], "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
        "colour": {"type": ["string", "number", "boolean", "null"]},
        "at": {"type": ["string", "null"], "format": "date-time"},
    }
    assert sorted(told["responses"]) == ["200", "400", "401", "408", "413", "415", "422", "429", "503"]
    for content in (told["requestBody"]["content"], told["responses"]["200"]["content"]):
        assert sorted(content) == ["application/json", "application/vnd.apache.arrow.stream"]


def test_the_schema_tells_of_ids_where_predictions_are_kept(champion: Champion) -> None:
    told = [documented(champion, 7, feedback=kept)["paths"]["/predict"]["post"]["responses"] for kept in (False, True)]
    without, kept = (one["200"]["content"]["application/json"]["schema"] for one in told)
    assert "ids" not in without["properties"]
    assert "ids" in kept["required"]
    assert kept["properties"]["ids"]["items"] == {"type": ["string", "null"]}
