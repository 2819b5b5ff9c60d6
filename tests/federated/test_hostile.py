"""Hostile servers and clients: nothing beyond the owner's folder is touched, nothing runs, a run ends as without."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.app import Message

from federated._client_failures import FAILURE
from federated._message_records import ORDER
from tests.support.federated_runs import Result, finish
from tests.support.federations import deployed, each_row_once, federation
from tests.support.heard_anchors import HeardAnchors
from tests.support.hostile_client import HOSTILE as ANSWERS
from tests.support.hostile_server import HOSTILE as ORDERS
from tests.support.hostile_server import asks
from tests.support.owners_grid import OwnersGrid

pytestmark = pytest.mark.flower

ROWS = 560
"""Three increments of them."""


def learned(folder: Path, grid: OwnersGrid, *settings: str) -> Result:
    with grid:
        return finish(deployed("federated.min_clients=2", *settings), folder / "run", grid.engine)


@pytest.fixture(scope="module")
def as_without(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Result]:
    """What three honest owners learn, and what two do."""
    three, two = (tmp_path_factory.mktemp(name) for name in ("three", "two"))
    return learned(three, OwnersGrid(federation(three, ROWS))), learned(two, OwnersGrid(federation(two, ROWS)[:2]))


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, but for the states of the owners."""
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.endswith("-state") for part in path.parts)
    }


def test_a_hostile_server_gets_nothing_and_changes_nothing(
    as_without: tuple[Result, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its orders, one after the other before an honest one: the run comes to the same bits."""
    home = tmp_path / "home"
    home.mkdir()
    files = federation(home, ROWS)
    (home / "blue" / "planted.py").write_text(f"open({str(home / 'ran')!r}, 'w')\n\nModel = print\n")
    before, left, told = contents(home), list(ORDERS), dict[str, Message | None]()

    anchors = HeardAnchors()

    def first(message: Message, name: str) -> None:
        anchor = anchors.hear(message)
        if name == "blue" and message.metadata.message_type == "train.learn":
            order = dict(message.content.config_records[ORDER])
            for kind in [left.pop() for _ in range(min(20, len(left)))]:
                told[kind] = asks(files[0], ORDERS[kind], order, anchor)

    monkeypatch.chdir(tmp_path)
    found = learned(tmp_path, OwnersGrid(files, lost=first))
    assert not left
    assert found.sha256 == as_without[0].sha256
    each_row_once(home, tmp_path / "run")
    assert contents(home) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "run"]
    for kind, answer in told.items():
        if answer is None or FAILURE not in answer.content:
            continue
        why = str(answer.content.config_records[FAILURE]["message"])
        assert str(tmp_path) not in why, kind
        assert ".parquet" not in why, kind
    heard = {kind for kind, answer in told.items() if answer is not None and FAILURE not in answer.content}
    harmless = {"a path", "a root", "a folder", "a huge number", "a state that is shared by other names"}
    assert heard <= {*harmless, "weights that are not finite"}


def test_a_client_that_is_refused_at_once_is_as_one_that_is_not_there(
    as_without: tuple[Result, Result], tmp_path: Path
) -> None:
    kinds = iter(["sums by other names", "absurd time", "statistics of nothing"])

    def spoils(reply: Message, name: str) -> None:
        if name == "red" and reply.metadata.message_type == "evaluate.receive":
            ANSWERS[next(kinds)][1](reply.content)

    found = learned(tmp_path, OwnersGrid(federation(tmp_path, ROWS), spoils=spoils))
    assert next(kinds, None) is None, "three, and it is asked no more"
    assert found.sha256 == as_without[1].sha256
