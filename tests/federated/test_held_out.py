"""Clients that never learn: the model is evaluated on their rows, which change no bit of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from federated.engine import FederatedEngine
from incr_core.commands.cli import main
from incr_core.errors import JobError
from incr_core.registry import RunDirectory
from incr_core.report import standings
from tests.support.federated_runs import finish, people
from tests.support.federations import deployed, ledgers
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.owners_grid import OwnersGrid

pytestmark = pytest.mark.flower

HELD_OUT = 'federated.held_out=["colour=red"]'


def test_the_model_is_that_of_the_others_and_answers_the_rows_of_who_is_held_out(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = people(table, HELD_OUT, "publish.every=1")
    found = finish(job, tmp_path / "run", on(InProcessGrid(3)))
    rows = pq.read_table(table)
    red = pc.sum(pc.equal(rows["colour"], "red")).as_py()
    assert len(found.learned) == len(rows) - red
    one = {standing.client: standing for standing in standings(RunDirectory.open(tmp_path / "run").table("clients"))}
    assert (one["colour=red"].rows_learned, one["colour=red"].participation) == (0, 0.0)
    assert one["colour=red"].rows_scored > 0
    assert one["colour=red"].value > 0.6
    assert one["colour=blue"].participation == 1.0
    finish(job, tmp_path / "parts", on(InProcessGrid(3)), stop_after=3)
    assert finish(job, tmp_path / "parts", on(InProcessGrid(3))) == found
    assert main(["audit", str(tmp_path / "run")]) == 0
    assert f"{red:,}" in capsys.readouterr().out


def test_an_owner_may_be_held_out(grid: Callable[..., OwnersGrid], tmp_path: Path) -> None:
    lent = grid()
    finish(deployed('federated.held_out=["red"]'), tmp_path / "run", lent.engine)
    assert ledgers(tmp_path).keys() == {"blue", "green"}
    assert ("train.learn", "red") not in lent.sent
    assert lent.engines[0].told()["clients"]["red"]["rows_learned"] == 0
    one = {standing.client: standing for standing in standings(RunDirectory.open(tmp_path / "run").table("clients"))}
    assert one["red"].rows_scored > 0


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ('["red"]', "expected names of clients of the run, such as 'colour=blue', got 'red'"),
        ('["colour=blue", "colour=green", "colour=red"]', "expected clients that learn, got the names of all"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(table: Path, tmp_path: Path, names: str, why: str) -> None:
    with pytest.raises(JobError, match=why):
        FederatedEngine(people(table, f"federated.held_out={names}"), tmp_path / "run", InProcessGrid(3))
