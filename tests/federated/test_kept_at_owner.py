"""What an owner erases is gone from all that its client keeps, and what is left can be audited there."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from federated._client_file import ClientFile
from federated._owner import Owner
from federated.engine import FederatedEngine
from incr_core.commands.cli import main
from incr_core.runs import memories_of, rows_kept
from incr_core.storage import checkpoint
from tests.support.federated_runs import finish
from tests.support.federations import deployed, federation
from tests.support.owners_grid import OwnersGrid

pytestmark = pytest.mark.flower


def learned(folder: Path, files: list[Path]) -> FederatedEngine:
    """Run it to the end of all rows."""
    with OwnersGrid(files) as grid:
        finish(deployed(), folder / "run", grid.engine)
    return grid.engines[0]


def held(home: Path, file: str) -> set[int]:
    """The rows of a file that any saved state at an owner holds."""
    found = set[int]()
    for place in home.glob("*-state/runs/*/generations/*"):
        state, _ = checkpoint.load(place)
        for rows in rows_kept(state, memories_of(deployed())).values():
            for row in rows.tolist():
                if state["cursor"]["fragments"][row >> 40] == file:
                    found.add(row & ((1 << 40) - 1))
    return found


def test_erased_rows_are_in_no_state_and_the_server_hears_how_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = federation(tmp_path, rows=480)
    place = tmp_path / "red" / "rows" / "1.parquet"
    table = pq.read_table(place)
    people = table.append_column("patient", pa.array([f"p{row // 40}" for row in range(len(table))]))
    pq.write_table(people, place)
    learned(tmp_path, files)
    before, file = held(tmp_path / "red", "1.parquet"), str(files[2])
    gone = set(range(80, 120))
    assert before & gone

    assert main(["forget", file, "--where", "patient=p2", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out).values()
    assert found["rows"] == found["learned"] == 40
    assert found["remembered"] > 0
    assert held(tmp_path / "red", "1.parquet") == before - gone

    assert main(["audit", file]) == 0
    told = capsys.readouterr().out
    assert "every one in exactly one state" in told
    assert "40 after they were learned" in told
    assert main(["audit", file, "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out).values()
    assert document["states"] == {
        "learned": len(table) - 40,
        "quarantined": 0,
        "duplicate": 0,
        "erased": 40,
        "pending": 0,
    }

    later = people.set_column(0, "at", pa.array([at.replace(year=2021) for at in table["at"].to_pylist()]))
    pq.write_table(later.slice(0, 50).cast(people.schema), place.with_name("2.parquet"))
    engine = learned(tmp_path, files)
    assert engine.told()["clients"]["red"]["rows_erased"] == 40
    events = pq.read_table(tmp_path / "run" / "events").to_pylist()
    assert ("rows erased", "client red: 40 rows") in {(event["kind"], event["what"]) for event in events}
    assert not held(tmp_path / "red", "1.parquet") & gone, "no memory has drawn them again"

    few = pa.table({"fragment": ["1.parquet"] * 3, "offset": [0, 1, 2]})
    pq.write_table(few, tmp_path / "few.parquet")
    assert main(["forget", file, "--rows", str(tmp_path / "few.parquet")]) == 0
    told_of = learned(tmp_path, files).told()["clients"]["red"]["rows_erased"]
    assert told_of == 40, "the difference would tell of three rows, where fewer than ten are not told of"

    (path,) = tmp_path.glob("red/*-state/runs/*/ledger.jsonl")
    path.write_text(path.read_text().replace('"rows": ', '"rows": 1'))
    assert main(["audit", file]) != 0
    assert "is not as it was written" in capsys.readouterr().err


@pytest.mark.chaos
def test_an_erasure_that_was_killed_is_finished_first(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned(tmp_path, files)

    def killed(directory: Path) -> None:
        raise KeyboardInterrupt

    rows = pa.table({"fragment": ["1.parquet"] * 20, "offset": list(range(20))})
    pq.write_table(rows, tmp_path / "rows.parquet")
    command = ["forget", str(files[2]), "--rows", str(tmp_path / "rows.parquet")]
    with monkeypatch.context() as patch:
        patch.setattr("federated._kept_at_owner.finish_erasing", killed)
        assert main(command) != 0
    owner = Owner(ClientFile.read(files[2]), lambda what: None)
    try:
        (place,) = (owner.file.folder / "runs").iterdir()
        with pytest.raises(Exception, match=r"an erasure in .* has begun and is not finished"):
            owner._known(place.name).at(1)
    finally:
        owner.close()
    assert main(command) == 0
    assert not held(tmp_path / "red", "1.parquet") & set(range(20))


def test_a_client_that_is_running_is_not_erased_from(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    owner = Owner(ClientFile.read(files[0]), lambda what: None)
    try:
        assert main(["forget", str(files[0]), "--where", "tall=1"]) != 0
    finally:
        owner.close()
    assert "expected to be alone with" in capsys.readouterr().err
    assert main(["forget", str(owner.file.folder), "--where", "tall=1"]) != 0
