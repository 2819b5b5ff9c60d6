"""Who may ask, how much at a time, and what a server tells of itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("httptools")

from incr_core.errors import ArgumentError
from incr_core.registry import RunDirectory
from incr_core.serving import App, Champion, Guard
from tests.support.asked import ROW, Asking, learned

BODY = json.dumps({"rows": [ROW]}).encode()


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Champion:
    return Champion(learned(tmp_path_factory.mktemp("asked")))


@pytest.fixture
def guarded(champion: Champion) -> Iterator[Asking]:
    made = Asking(App(champion, guard=Guard("secret")))
    yield made
    made.close()


@pytest.mark.parametrize(
    "told", [None, "", "secret", "Bearer", "Bearer Secret", "Bearer secret2", "Basic secret", "Bearer s\xe9"]
)
def test_nothing_but_probes_and_the_page_is_told_without_the_token(guarded: Asking, told: str | None) -> None:
    headers = {} if told is None else {"authorization": told}
    for path in ("/predict", "/feedback", "/nothing", "/../predict", "/%70redict"):
        status, body = guarded.post(BODY, path=path, **headers)
        assert status == 401, path
        assert body == b'{"detail":"authorization: expected Bearer and this server\'s token, got another or none"}'
    for path in ("/version", "/metrics", "/standing", "/openapi.json", "/health/", "//", "/./health"):
        assert guarded.get(path, **headers)[0] == 401, path
    for path in ("/health", "/ready", "/"):
        assert guarded.get(path, **headers)[0] == 200, path


def test_with_the_token_all_is_told(guarded: Asking) -> None:
    assert guarded.post(BODY, authorization="Bearer secret")[0] == 200
    for path in ("/version", "/metrics", "/standing", "/openapi.json"):
        assert guarded.get(path, authorization="Bearer secret")[0] == 200
    assert guarded.get("/nothing", authorization="Bearer secret")[0] == 404
    assert guarded.get("/predict", authorization="Bearer secret")[0] == 405
    # Without a journal, no labels are taken.
    status, body = guarded.post(BODY, path="/feedback", authorization="Bearer secret")
    assert (status, b"start it with --journal" in body) == (404, True)


def test_a_rate_lets_a_second_s_worth_through_at_once_and_probes_always(champion: Champion) -> None:
    now = 0.0
    guard = Guard(rate=2.0, clock=lambda: now)
    asking = Asking(App(champion, guard=guard))
    assert [asking.post(BODY)[0] for _ in range(3)] == [200, 200, 429]
    assert asking.get("/health")[0] == 200
    now = 0.5
    assert [asking.post(BODY)[0] for _ in range(2)] == [200, 429]
    assert guard.board.inside == 0
    asking.close()


def test_what_is_too_much_at_a_time_is_told_to_come_again(champion: Champion) -> None:
    app = App(champion, guard=Guard(concurrency=1))
    asking = Asking(app)
    assert app.guard.enter({"path": "/predict", "headers": []}) is None
    status, body = asking.post(BODY)
    assert (status, body) == (503, b'{"detail":"expected at most 1 requests at a time, got more; ask again"}')
    app.guard.leave()
    assert asking.post(BODY)[0] == 200
    asking.close()


def test_metrics_and_the_page_tell_what_was_answered(champion: Champion) -> None:
    asking = Asking(App(champion))
    asking.rows(ROW, {**ROW, "at": "soon"})
    asking.post(b"{")
    asking.get("/nothing")
    lines = asking.get("/metrics")[1].decode().splitlines()
    for line in (
        'incr_requests_total{path="/predict",status="200"} 1',
        'incr_requests_total{path="/predict",status="400"} 1',
        'incr_requests_total{path="other",status="404"} 1',
        "incr_rows_total 2",
        "incr_rows_refused_total 1",
        "incr_predict_seconds_count 2",
        'incr_predict_seconds_bucket{le="+Inf"} 2',
        f"incr_champion_version {champion.current.version.number}",
        "incr_champion_stale 0",
    ):
        assert line in lines, line
    told = json.loads(asking.get("/standing")[1])
    assert (told["requests"], told["refusals"], told["rows"], told["feedback"]) == (4, 2, 2, None)
    assert told["recent"][0]["answer"]["probability"] > 0
    status, page = asking.get("/")
    assert status == 200
    assert b"<script>" in page
    asking.close()


def test_requests_of_one_moment_share_a_forward_and_each_is_answered_by_one_version(tmp_path: Path) -> None:
    out = learned(tmp_path)
    champion = Champion(out)
    last = champion.current.version.number
    app = App(champion)
    asking = Asking(app)
    rows = [{**ROW, "height": 150 + place} for place in range(30)]
    alone = [asking.rows(row)[1]["predictions"][0]["probability"] for row in rows]

    async def together() -> list[dict[str, object]]:
        asked = [app.batches.ask(champion.current.question([row, row])) for row in rows[:15]]
        first = [asyncio.ensure_future(one) for one in asked]
        await asyncio.sleep(0)
        RunDirectory.open(out).promote(1)
        champion.look()
        second = [app.batches.ask(champion.current.question([row])) for row in rows[15:]]
        return list(await asyncio.gather(*first, *second))

    before = app.batches.forwards
    with asyncio.Runner() as runner:
        answers = runner.run(together())
    assert app.batches.forwards == before + 2
    assert [answer["version"] for answer in answers] == [last] * 15 + [1] * 15
    for answer, expected in zip(answers[:15], alone[:15], strict=True):
        told = [one["probability"] for one in answer["predictions"]]  # type: ignore[attr-defined]
        assert told == pytest.approx([expected] * 2, abs=1e-6)
    assert champion.swaps == 1
    asking.close()


def test_options_that_do_not_go_together_are_told(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    from incr_core.serving import Serving

    for options, told in (
        (Serving(rate=0.0), "--rate: expected more than 0, got 0"),
        (Serving(keep=0), "--keep: expected at least 1, got 0"),
        (Serving(tls_cert="a.pem"), "--tls-cert, --tls-key: expected both files or neither"),
        (Serving(labelled="data"), "--labelled: expected a --journal too"),
    ):
        with pytest.raises(ArgumentError, match=told):
            options.check()
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "nowhere"):
        with pytest.raises(ArgumentError, match="--token-file"):
            Serving(token_file=str(tmp_path / name)).token()
    (tmp_path / "token").write_text("secret\n")
    assert Serving(token_file=str(tmp_path / "token")).token() == "secret"
