"""Going back: the run goes on as if it had never learned what came since, while another process writes it too."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from incr_core.commands.audit import audit
from incr_core.commands.cli import main
from incr_core.errors import RunDirectoryError, VersionError
from incr_core.registry import RunDirectory
from incr_core.runs import Run, difference, open_run
from tests.support.gated import Gates, fed_job
from tests.support.made_up import made_up
from tests.support.processes import begin, wait_until

SETTINGS: dict[str, Any] = {
    "label": "tall",
    "numeric": ["height", "weight"],
    "categorical": ["colour"],
    "classes": [0, 1],
}


def people(parts: int) -> list[dict[str, list[Any]]]:
    table = made_up(400).select(["height", "weight", "colour", "tall"])
    return [table.slice(40 * part, 40).to_pydict() for part in range(parts)]


def learned(out: Path, parts: int, **publish: Any) -> Run:
    replay = {"name": "replay", "capacity": 50}
    return open_run(out, stream=people(parts), strategies=[replay], publish={"states": 9, **publish}, **SETTINGS).run()


@pytest.mark.slow
def test_learning_goes_on_from_the_version_to_the_bits_of_a_run_that_never_went_past_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = learned(tmp_path / "run", 6), learned(tmp_path / "other", 8)
    assert run.rollback(3) == (
        "version 7 equals version 3, and learning continues from it; 120 rows learned since are pending again"
    )
    assert (run.champion.number, run.versions[6].model_sha256) == (7, run.versions[2].model_sha256)
    assert (audit(run.path).states.states["learned"], audit(run.path).holds) == (120, True)
    run = learned(tmp_path / "run", 8)
    assert [one.model_sha256 for one in run.versions[7:]] == [one.model_sha256 for one in other.versions[3:]]
    assert run.summary.prequential == other.summary.prequential
    assert run.table("ledger")["rows"].to_pylist() == [40] * 8
    assert run.table("metrics")["increment"].to_pylist() == [*range(8)]
    assert run.table("events")["what"].to_pylist() == ["from version 6 to 3"]
    assert audit(run.path).holds
    assert main(["diff", str(run.path), "6", "8"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "version 6 (part 5) -> version 8 (part 3): 40 rows learned between"
    assert told[1:3] == ["  version 6 goes on from 5, 4, 3, 2, 1", "  version 8 goes on from 7, 3, 2, 1"]
    for version, same in ((6, 6), (7, 3)):  # one that was undone, and one that restores another
        compared = difference(run.path, version, 8)["metrics"]
        assert {name: values[0] for name, values in compared.items()} == other.versions[same - 1].metrics
    # There and back again: what was undone counts once more, and what was learned instead does not.
    run.rollback(5)
    assert run.table("ledger")["version"].to_pylist() == [1, 2, 3, 4, 5]
    assert audit(run.path).holds


@pytest.mark.slow
def test_rows_may_be_set_aside(tmp_path: Path) -> None:
    run, days = learned(tmp_path / "run", 6), people(8)
    assert main(["rollback", str(run.path), "3", "--drop"]) == 0
    run = learned(tmp_path / "run", 8)
    assert run.summary.rows_learned == 200
    kinds = run.table("events")["kind"].to_pylist()
    assert kinds == ["rollback", "set aside", "set aside", "set aside"]
    assert set(run.table("quarantine")["reason"].to_pylist()) == {"set aside by a rollback from version 6 to 3"}
    assert audit(run.path).states.states["quarantined"] == 120
    replay = {"name": "replay", "capacity": 50}
    without = open_run(
        tmp_path / "without", stream=[*days[:3], *days[6:]], strategies=[replay], publish={"states": 9}, **SETTINGS
    ).run()
    assert run.summary.model_sha256 == without.summary.model_sha256


def test_where_files_have_but_one_name_states_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = learned(tmp_path / "run", 4)

    def no_links(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", source)

    monkeypatch.setattr(os, "link", no_links)
    run.rollback(2)
    assert run.champion.number == 5
    assert learned(tmp_path / "run", 4).summary.rows_learned == 160


def test_a_version_without_a_state_is_refused(tmp_path: Path) -> None:
    run = learned(tmp_path / "run", 5, states=2)
    with pytest.raises(VersionError, match="version 3: expected the state to go on from, got none, since"):
        run.rollback(3)
    with pytest.raises(VersionError, match="no version 9; there are versions 1 to 5"):
        run.rollback(9)
    assert [one.number for one in run.versions] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_pinned_version_stays_the_champion_until_it_is_unpinned(tmp_path: Path) -> None:
    run = learned(tmp_path / "run", 4)
    run.pin(2)
    run = learned(tmp_path / "run", 6)
    assert (run.champion.number, run.status.version) == (2, 6)
    RunDirectory.open(run.path)
    assert run.champion.number == 2
    assert run.unpin() == "no version is pinned; the champion is version 2 until the next one is published"
    assert learned(tmp_path / "run", 7).champion.number == 7


@pytest.mark.slow
def test_the_process_that_learns_goes_back_while_it_waits_for_data(tmp_path: Path) -> None:
    gates, out = Gates(tmp_path, closed=(5, 8)), tmp_path / "run"
    process = begin(["run", str(fed_job(tmp_path)), "--out", str(out), "--quiet", "--set", "publish.states=9"])
    try:
        wait_until(lambda: gates.reached and Run(out).status.version == 5, process)
        run = Run(out)
        assert main(["hold", str(out)]) == 0
        assert main(["rollback", str(out), "3"]) == 0
        assert run.champion.number == 5
        assert (run.status.version or 0) >= 6  # it learns on at once, from version 6
        with pytest.raises(VersionError, match="no version 77"):
            run.promote(77)
        gates.open()
        wait_until(lambda: gates.reached and run.status.version == 11, process)
        assert run.champion.number == 5
        assert run.unpin().startswith("no version is pinned")
        gates.open()
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()
    assert run.summary.rows_learned == 96
    assert run.champion.number == run.status.version
    assert audit(out).holds
    with pytest.raises(RunDirectoryError, match="expected a run directory"):
        Run(tmp_path / "nowhere").pin()
