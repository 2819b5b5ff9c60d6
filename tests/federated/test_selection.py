"""Who learns in a round: drawn by the seed and by weights, the same after a resume and on any number of workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Message

from federated._selection import Selection
from incr_core.errors import JobError
from incr_core.job import FederatedSection
from tests.support.federated_runs import finish, people
from tests.support.federations import deployed, each_row_once
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.owners_grid import BEFORE, OwnersGrid

pytestmark = pytest.mark.flower


def share_of_large(select: str, failing: bool = False) -> float:
    """How often the client with nine times the rows of each other is drawn, of 2,000 rounds; or who never answers."""
    draw = Selection(FederatedSection(clients_per_round=1, select=select), seed=0)
    drawn: Counter[int] = Counter()
    for _ in range(2000):
        (chosen,) = draw.rounds({0: 1, 1: 9, 2: 1, 3: 1})
        drawn.update(chosen)
        draw.answered(chosen, {} if failing and chosen == [1] else dict.fromkeys(chosen))
    return drawn[1] / 2000


def test_chances_are_equal_or_by_rows_or_by_answers() -> None:
    assert share_of_large("uniform") == pytest.approx(1 / 4, abs=0.03)
    assert share_of_large("rows") == pytest.approx(9 / 12, abs=0.03)
    assert share_of_large("availability") == pytest.approx(1 / 4, abs=0.03)
    assert share_of_large("availability", failing=True) < 0.05


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"clients_per_round": 2}, 2),
        ({"clients_per_round": 9}, 5),
        ({"fraction": 0.3}, 2),
        ({"fraction": 0.3, "min_clients": 4}, 4),
        ({"fraction": 0.3, "min_clients": 9}, 5),
        ({}, 5),
    ],
)
def test_as_many_are_drawn_as_the_job_says(settings: dict[str, float], size: int) -> None:
    draw = Selection(FederatedSection(**settings), seed=0)
    (drawn,) = draw.rounds(dict.fromkeys(range(10, 15), 7))
    assert len(set(drawn)) == size
    assert drawn == sorted(drawn)
    assert draw.rounds({4: 1}, all_of_them=True) == [[4]]
    assert draw.rounds({}) == []


@pytest.mark.parametrize("select", ["rows", "availability"])
def test_rows_of_clients_that_are_not_drawn_are_learned_once_drawn(table: Path, tmp_path: Path, select: str) -> None:
    """The same on three workers, and after every resume."""
    job = people(table, "federated.clients_per_round=1", f"federated.select={select}")
    grid = InProcessGrid(3)
    whole = finish(job, tmp_path / "whole", on(grid))
    assert whole.learned == list(range(2000))
    learns = [node for action, node in grid.sent if action == "train.learn"]
    assert len(learns) == whole.increments + 2, "all three in the warm start, then one at a time"
    for stop in (2, 5):
        finish(job, tmp_path / "parts", on(InProcessGrid(3)), stop_after=stop)
    assert finish(job, tmp_path / "parts", on(InProcessGrid(3, workers=3, shuffle=1))) == whole


def test_one_that_does_not_answer_is_asked_less_often(grid: Callable[..., OwnersGrid], tmp_path: Path) -> None:
    """Of owners, who may fail; its rows wait for when it is drawn, and answers."""
    asked = 0

    def lost(message: Message, name: str) -> str | None:
        nonlocal asked
        if (message.metadata.message_type, name) != ("train.learn", "red"):
            return None
        asked += 1
        return BEFORE if asked in (2, 3) else None

    lent = grid(lost=lost)
    settings = "federated.min_clients=1", "federated.clients_per_round=1", "federated.select=availability"
    finish(deployed(*settings), tmp_path / "run", lent.engine)
    each_row_once(tmp_path, tmp_path / "run")
    (engine,) = lent.engines
    record, names = engine._selection.state_dict()["asked"], engine.participants
    assert record[names.index("red")][0] - record[names.index("red")][1] == 2
    assert all(said == told for client, (said, told) in record.items() if names[client] != "red")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (("federated.clients_per_round=1", "federated.min_clients=2"), "at least federated.min_clients, got 1 and 2"),
        (("federated.clients_per_round=2", "federated.fraction=0.5"), "expected it or fraction, got 2 and 0.5"),
        (("federated.select=rows",), 'expected fraction or clients_per_round with "rows", got neither'),
    ],
)
def test_what_cannot_be_meant_is_refused(table: Path, settings: tuple[str, ...], why: str) -> None:
    with pytest.raises(JobError, match=why):
        people(table, *settings)
