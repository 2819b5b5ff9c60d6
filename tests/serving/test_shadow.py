"""A shadow answers beside the champion, which nobody who asks the champion can notice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httptools")

from incr_core.errors import ArgumentError, IncrError
from incr_core.runs import Version
from incr_core.serving import App, Asked, Champion, Shadow
from tests.support.asked import ROW, Asking, learned
from tests.support.served import ask, serving

BODY = json.dumps({"rows": [ROW, ROW | {"height": 150.0}]}).encode()
BAD = json.dumps({"rows": [ROW, ROW | {"at": "soon"}]}).encode()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(tmp_path_factory.mktemp("asked"))


@pytest.fixture
def shadowed(run: Path) -> Iterator[tuple[Asking, App]]:
    app = App(Champion(run), shadow=Shadow(run, "1"))
    made = Asking(app)
    yield made, app
    made.close()


def predicted(run: Path, number: int) -> list[float]:
    """What that version makes of the inputs that the champion is given."""
    question = Champion(run).current.question([ROW, ROW | {"height": 150.0}])
    told = Asked(Version.load(run, number)).predict(question.inputs, 2)
    return [one["probability"] for one in told if not isinstance(one, str)]


def shadow_of(app: App) -> Shadow:
    assert app.shadow is not None
    return app.shadow


def settled(app: App) -> None:
    """Wait until the shadow has answered."""
    busy = shadow_of(app)._busy
    assert busy is not None
    busy.result(600)


def test_the_champion_answers_and_the_shadow_is_compared(shadowed: tuple[Asking, App], run: Path) -> None:
    made, app = shadowed
    _, body = made.post(BODY)
    settled(app)
    answered = json.loads(body)
    champion = Champion(run)
    assert answered["version"] == champion.current.version.number > 1
    assert [one["probability"] for one in answered["predictions"]] == predicted(run, answered["version"])
    first = predicted(run, 1)
    apart = [abs(one["probability"] - other) for one, other in zip(answered["predictions"], first, strict=True)]
    told = shadow_of(app).describe()
    assert told["version"] == 1
    assert told["rows"] == 2
    assert told["mean_difference"] == pytest.approx(sum(apart) / 2)
    assert told["mean_difference"] > 0
    _, metrics = made.get("/metrics")
    assert b"incr_shadow_rows_total 2\n" in metrics
    assert b"incr_shadow_version 1\n" in metrics
    assert json.loads(made.get("/standing")[1])["shadow"] == told


def test_it_can_be_asked_itself(shadowed: tuple[Asking, App], run: Path) -> None:
    made, app = shadowed
    status, body = made.post(BODY, path="/shadow")
    assert status == 200
    answered = json.loads(body)
    assert answered["version"] == 1
    assert [one["probability"] for one in answered["predictions"]] == predicted(run, 1)
    assert app.metrics.rows == 0
    assert "/shadow" in json.loads(made.get("/openapi.json")[1])["paths"]


def test_a_row_that_cannot_be_used_is_refused_by_both(shadowed: tuple[Asking, App]) -> None:
    made, app = shadowed
    answers = [json.loads(made.post(BAD, path=path)[1]) for path in ("/predict", "/shadow")]
    assert [answer["predictions"][1] for answer in answers] == [None, None]
    assert answers[0]["refused"] == answers[1]["refused"]
    settled(app)
    assert shadow_of(app).rows == 1


def test_what_goes_wrong_with_it_is_told_and_changes_no_answer(
    shadowed: tuple[Asking, App], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, app = shadowed
    _, before = made.post(BODY)
    settled(app)

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("out of order")

    monkeypatch.setattr(shadow_of(app).current, "predict", broken)
    assert made.post(BODY)[1] == before
    settled(app)
    assert shadow_of(app).describe()["fault"] == "out of order"
    assert b"incr_shadow_failing 1\n" in made.get("/metrics")[1]


def test_without_a_shadow_there_is_none_to_ask(run: Path) -> None:
    made = Asking(App(Champion(run)))
    assert made.post(BODY, path="/shadow")[0] == 404
    assert b"incr_shadow" not in made.get("/metrics")[1]
    made.close()


@pytest.mark.parametrize("wanted", ["seven", "-1", "", "1.5"])
def test_what_is_no_version_is_refused(run: Path, wanted: str) -> None:
    with pytest.raises(ArgumentError, match='--shadow: expected the number of a version, or "newest", got'):
        Shadow(run, wanted)
    with pytest.raises(IncrError, match="version 99"):
        Shadow(run, "99")


def test_the_command_asks_the_newest_version(run: Path) -> None:
    with serving(run, "--shadow", "newest") as url:
        answered = ask(f"{url}/predict", {"rows": [ROW]})
        assert ask(f"{url}/shadow", {"rows": [ROW]}) == answered, "the champion is the newest one"
