"""Law 6 in clients: every row is in exactly one state, and a client that sat out holds its rows until its turn."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from incr_core.commands.audit import audit, described
from incr_core.job import Job
from tests.support.federated_runs import finish
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.row_states import counts, mixed, told

pytestmark = pytest.mark.flower

ACCOUNTED = ("learned", "quarantined", "duplicate", "erased")


@pytest.mark.parametrize(("clients", "by"), [(2, "blocks:2"), (4, "carrier")])
def test_every_row_of_clients_is_in_one_state(tmp_path: Path, clients: int, by: str) -> None:
    job = Job.from_document(mixed(tmp_path / "data") | {"federated": {"clients": by}})
    finish(job, tmp_path / "run", on(InProcessGrid(clients)), stop_after=2)
    found = audit(tmp_path / "run")
    assert found.violations == []
    assert told(found.document()) == counts(tmp_path / "data", 2)
    finish(job, tmp_path / "run", on(InProcessGrid(clients)))
    found = audit(tmp_path / "run")
    assert (found.violations, told(found.document())) == ([], counts(tmp_path / "data", 99))


def test_rows_that_clients_hold_are_pending_until_their_turn(tmp_path: Path) -> None:
    federated = {"clients": "blocks:2", "fraction": 0.5}
    job = Job.from_document(mixed(tmp_path / "data") | {"federated": federated})
    finish(job, tmp_path / "run", on(InProcessGrid(2)), stop_after=2)
    found = audit(tmp_path / "run")
    assert found.violations == []
    held = {name: one["held"] for name, one in found.states.participants.items()}
    whole = counts(tmp_path / "data", 2)
    assert found.states.pending["held by a participant"] == sum(held.values()) > 0
    assert found.states.states["learned"] + sum(held.values()) == whole["learned"]
    name = max(held, key=lambda name: held[name])
    assert any(line.split()[:1] == [name] and line.endswith(f" {held[name]}") for line in described(found).splitlines())

    # Its state tells of them: without it, as with a client on a disk elsewhere, nothing more is proven.
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "run", copy)
    for folder in (copy / "state").iterdir():
        shutil.rmtree(folder)
    found = audit(copy)
    assert found.violations == []
    names = list(held)
    assert found.unproven[:2] == [
        f"which rows are held until their turn: {names[0]}, {names[1]} keeps no state of version 2 here (a client on a "
        "SuperNode elsewhere keeps its own)",
        "which rows are due: no participant's state is stored here, which has the run's place in the stream",
    ]
    assert found.states.rows == 100
    assert found.states.pending["not learned yet"] == 100 - sum(found.states.states[name] for name in ACCOUNTED)

    # With the state of one client alone, what the other holds is not taken for lost.
    [other] = set(names) - {name}
    shutil.copytree(tmp_path / "run" / "state" / other, copy / "state" / other)
    found = audit(copy)
    assert (found.violations, len(found.unproven)) == ([], 2)
    assert found.unproven[0].startswith(f"which rows are held until their turn: {name} keeps no state of version 2 ")
    finish(job, tmp_path / "run", on(InProcessGrid(2)))
    found = audit(tmp_path / "run")
    assert (found.violations, told(found.document())) == ([], counts(tmp_path / "data", 99))
