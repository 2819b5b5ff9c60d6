"""A request for erasure, carried out on a run directory: nothing that was kept of the rows is left."""

from __future__ import annotations

import csv
import json
import os
import shutil
import struct
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core import Batch, Learner
from incr_core.commands.cli import main
from incr_core.errors import ArgumentError, CheckpointError, RunDirectoryError
from incr_core.job import Job
from incr_core.memories import OnlineHerding
from incr_core.objectives import Binary
from incr_core.registry import RunDirectory, add_erased, erased, ledger
from incr_core.runs import erase, rows_where, run
from incr_core.storage import checkpoint
from incr_core.strategies import Replay

pytestmark = pytest.mark.slow

MARK = 777.125
"""A number that only the rows to be erased have."""

SHY = 7
"""Whose rows they are: every twentieth."""

STRATEGIES = [
    {"name": "der", "capacity": 400},
    {"name": "replay", "capacity": 60, "memory": "herding"},
    {"name": "agem", "capacity": "20kB", "memory": "balanced"},
]


def write(folder: Path, rows: int = 300) -> None:
    """CSV files of rows whose label is known a day and a half later; one row in seventy cannot be used."""
    folder.mkdir()
    for part in range(2):
        with open(folder / f"part-{part}.csv", "w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["at", "known", "x", "z", "person", "y"])
            for row in range(part * rows, (part + 1) * rows):
                hour, person = row // 5, row % 20
                at = f"2024-01-{1 + hour // 24:02d}T{hour % 24:02d}:00:00"
                known = f"2024-01-{1 + (hour + 36) // 24:02d}T{(hour + 36) % 24:02d}:00:00"
                z = f"secret of {person}" if row % 70 == SHY else row % 3
                out.writerow([at, known, MARK if person == SHY else row % 9, z, person, row % 2])


def job(folder: Path, **sections: Any) -> Job:
    document: dict[str, Any] = {
        "stream": {
            "path": str(folder / "data"),
            "every": "12h",
            "predict_at": "at",
            "label_at": "known",
            "settle": "0s",
        },
        "features": {"label": "y", "numeric": ["x", "z"], "on_bad_row": "quarantine"},
        "model": {"hidden": [4]},
        "learner": {"objective": "binary", "consolidate": 400},
        "strategy": STRATEGIES,
        "review": {"every": 2, "rows": 5000},
        "baselines": {"none": ["learner.frozen=true"]},
    }
    return Job.from_document(document | sections).resolved()


def traces(folder: Path) -> list[str]:
    """Files under a folder that hold the mark or the secret."""
    marks = [struct.pack("<f", MARK), struct.pack("<d", MARK)]
    found = [
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and any(mark in file.read_bytes() for mark in marks)
    ]
    for path in [folder, *(file.parent for file in folder.glob("baselines/*/job.toml"))]:
        for file, table in RunDirectory.open(path).stored("quarantine"):
            if f"secret of {SHY}" in table["value"].to_pylist():
                found.append(str(file.relative_to(folder)))
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != ".lock"}


def test_nothing_is_left_of_the_rows_and_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "data")
    wanted, out = job(tmp_path), tmp_path / "run"
    run(wanted, out)
    assert {name.split("/")[0] for name in traces(out)} == {"state", "versions", "quarantine", "baselines"}
    before = pq.read_table(out / "ledger")

    assert main(["forget", str(out), "--where", f"person={SHY}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert traces(out) == []
    assert (told["rows"], told["quarantined"], told["learned"], told["waiting"]) == (30, 5, 25, 0)
    assert told["remembered"] > 20
    assert told["kept"] > 0
    assert pq.read_table(out / "ledger").equals(before)
    assert len(pq.read_table(out / "erased")) == 30

    # What is left is whole: every hash holds, and a run of more rows goes on from it, reviewing no erased row.
    found = RunDirectory.open(out)
    for version in found.versions():
        found.load(version["version"])
    (tmp_path / "data" / "part-2.csv").write_text(
        "at,known,x,z,person,y\n"
        + "".join(f"2024-02-0{day}T00:00:00,2024-02-0{day}T01:00:00,1,1,1,1\n" for day in (1, 2, 3))
    )
    run(wanted, out)
    assert traces(out) == []
    review = [event for event in pq.read_table(out / "events").to_pylist() if event["kind"] == "review"][-1]
    ledger = pq.read_table(out / "ledger").to_pylist()
    assert review["increment"] > max(entry["increment"] for entry in before.to_pylist())
    seen = sum(entry["rows"] for entry in ledger if entry["increment"] < review["increment"])
    assert review["rows"] == seen - 25
    assert erase(out, rows_where(out, f"person={SHY}")[0])["remembered"] == 0


def test_rows_by_address_and_the_rows_beside_them(tmp_path: Path) -> None:
    write(tmp_path / "data")
    out = tmp_path / "run"
    run(job(tmp_path), out)
    weights = RunDirectory.open(out).load()[0]
    asked = pa.table({"fragment": ["part-0.csv", "part-9.csv"], "offset": [1, 1]})
    pq.write_table(asked, tmp_path / "asked.parquet")
    assert main(["forget", str(out), "--rows", str(tmp_path / "asked.parquet")]) == 0
    found = RunDirectory.open(out).load()[0]
    assert all(torch.equal(value, found[name]) for name, value in weights.items())
    assert any("state" in name for name in traces(out))  # the rows of another person


def test_a_request_that_cannot_be_met_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "data")
    out = tmp_path / "run"
    run(job(tmp_path, strategy=[{"name": "replay", "capacity": 30, "memory": "prototypes"}], baselines={}), out)
    before = content(out)
    with pytest.raises(ArgumentError, match="from which none can be erased; use a memory of rows"):
        erase(out, rows_where(out, f"person={SHY}")[0])
    with pytest.raises(ArgumentError, match="where x: expected COLUMN=VALUE, such as customer=42"):
        rows_where(out, "x")
    with pytest.raises(ArgumentError, match=r"expected a value like those of person .* of type int64, got 'me'"):
        rows_where(out, "person=me")
    assert main(["forget", str(out), "--where", "x"]) == 2  # there it is told as it was typed
    assert capsys.readouterr().err.startswith("incr: --where x: expected COLUMN=VALUE")
    assert content(out) == before
    plain = job(tmp_path, baselines={})
    busy, asked = tmp_path / "busy", pa.table({"fragment": ["part-0.csv"], "offset": [1]})
    with (
        RunDirectory.create(busy, plain.toml(), plain.fingerprint()),
        pytest.raises(RunDirectoryError, match="wait for it, stop it"),
    ):
        erase(busy, asked)


@pytest.mark.parametrize("journal", ["nowhere", "mysql://anna:secret@db/flights"])
def test_a_journal_that_is_not_there_is_refused_before_a_row_is_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], journal: str
) -> None:
    pytest.importorskip("httptools")
    write(tmp_path / "data")
    out = tmp_path / "run"
    run(job(tmp_path, baselines={}), out)
    before = content(out)
    place = journal if ":" in journal else str(tmp_path / journal)
    assert main(["forget", str(out), "--where", f"person={SHY}", "--journal", place]) != 0
    said = capsys.readouterr().err
    assert "journal" in said
    assert "secret" not in said
    assert content(out) == before


def test_a_learner_forgets_rows_of_all_its_memories() -> None:
    learner = Learner(torch.nn.Linear(1, 1), Binary(), torch.optim.SGD, [Replay(5), Replay(9, memory="window")])
    assert learner.drop(torch.tensor([3])) == 0
    learner.learn(Batch(torch.randn(9, 1), torch.ones(9), row_ids=torch.arange(9)))
    held = sum(int((memory.rows_held()["rows"] == 3).sum()) for memory in learner.memories())
    assert held >= 1
    assert learner.drop(torch.tensor([3])) == held
    assert learner.drop(torch.tensor([3])) == 0


def test_a_prediction_whose_label_is_not_known_is_deleted_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    rows = ["2024-01-01,2024-01-02,1,1,1,1", "2024-01-01,2024-01-02,0,1,1,0", "2024-01-02,,5,1,2,1"]
    (tmp_path / "data" / "part-0.csv").write_text("\n".join(["at,known,x,z,person,y", *rows]))
    out = tmp_path / "run"
    run(job(tmp_path, baselines={}), out)

    def pending() -> list[int]:
        newest = max((out / "state" / "all").iterdir(), key=lambda folder: int(folder.name))
        found: list[int] = checkpoint.load(newest)[0]["pending"]["rows"].tolist()
        return found

    assert pending() == [2]
    assert main(["forget", str(out), "--where", "person=2"]) == 0
    assert pending() == []
    assert "deleted: 1 predictions without a label" in capsys.readouterr().out
    assert erase(out, rows_where(out, "person=2")[0])["predicted"] == 0


def test_herding_keeps_no_mean_of_a_class_all_of_whose_rows_are_erased() -> None:
    memory, generator = OnlineHerding(9), torch.Generator()
    inputs, targets = torch.tensor([[MARK], [1.0], [5.0]]), torch.tensor([0.0, 1.0, 1.0])
    memory.insert({"inputs": inputs, "targets": targets, "rows": torch.arange(3)}, generator)
    assert memory.drop(torch.tensor([0])) == 1
    state = memory.get_extra_state()
    assert state["counts"].tolist() == [0, 2]
    assert state["mean_inputs"].flatten().tolist() == [0.0, 3.0]
    memory.insert({"inputs": torch.tensor([[4.0]]), "targets": torch.zeros(1), "rows": torch.tensor([3])}, generator)
    assert memory.get_extra_state()["mean_inputs"].flatten().tolist() == [4.0, 3.0]


def test_a_baseline_that_cannot_forget_keeps_the_run_from_beginning_to(tmp_path: Path) -> None:
    write(tmp_path / "data", rows=60)
    out = tmp_path / "run"
    replay = [{"name": "replay", "capacity": 30}]
    means = ['strategy=[{name="replay", capacity=30, memory="prototypes"}]']
    run(job(tmp_path, strategy=replay, baselines={"means": means, "none": ["model.hidden=[3]"]}), out)
    before, asked = content(out), rows_where(out, f"person={SHY}")[0]
    with pytest.raises(ArgumentError, match="from which none can be erased"):
        erase(out, asked)
    assert content(out) == before
    shutil.rmtree(out / "baselines" / "means")
    before = content(out)
    none = RunDirectory.open(out / "baselines" / "none")
    with none.alone(), pytest.raises(RunDirectoryError, match="baselines/none: another process"):
        erase(out, asked)
    assert content(out) == before


def test_alone_with_a_run_all_that_was_committed_meanwhile_is_known(tmp_path: Path) -> None:
    plain = ('name = "demo"', "f00d")
    with RunDirectory.create(tmp_path / "run", *plain):
        found = RunDirectory.open(tmp_path / "run")
    with RunDirectory.create(tmp_path / "run", *plain) as writing:
        writing.commit({}, manifest={}, metrics=pa.table({"increment": [0]}), ledger=ledger.SCHEMA.empty_table())
    with found.alone():
        assert (found.latest(), found.table("metrics").num_rows) == (1, 1)


def test_where_looks_in_every_file_that_can_hold_the_value(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    columns = {"x": [1.0, 2.0], "z": [1, 2], "y": [0, 1], "tags": [[1], [2]]}
    for part, person in enumerate([[1, 2], ["me", "2"], [None, None], [[1], [2]]]):
        pq.write_table(pa.table({**columns, "person": person}), tmp_path / "data" / f"part-{part}.parquet")
    out = tmp_path / "run"
    run(job(tmp_path, stream={"path": str(tmp_path / "data")}, baselines={}), out)
    found, gone = rows_where(out, "person=me")
    assert (found.to_pylist(), gone) == ([{"fragment": "part-1.parquet", "offset": 0}], [])
    found, _ = rows_where(out, "person=2")
    assert found["fragment"].to_pylist() == ["part-0.parquet", "part-1.parquet"]
    with pytest.raises(ArgumentError, match=r"expected a value like those of tags .* list.* got '1'"):
        rows_where(out, "tags=1")
    (tmp_path / "data" / "part-0.parquet").unlink()
    assert rows_where(out, "person=2")[1] == ["part-0.parquet"]


def test_what_is_told_of_rows_that_a_run_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "data", rows=60)
    out = tmp_path / "run"
    rate = [{"by": ["person"], "window": "1d"}]
    features = {"label": "y", "numeric": ["x"], "rate": rate}
    run(job(tmp_path, strategy=STRATEGIES[:1], features=features, baselines={}), out)
    asked = pa.table({"fragment": ["part-0.csv"] * 3 + ["part-9.csv"], "offset": [1, 1, -1, 1]})
    pq.write_table(asked, tmp_path / "asked.parquet")
    assert main(["forget", str(out), "--rows", str(tmp_path / "asked.parquet")]) == 0
    told = capsys.readouterr().out
    assert "3 rows: 1 learned" in told
    assert "unknown: 2 rows" in told
    assert "not learned yet" not in told
    assert "still in the sums" not in told
    assert "journal" not in told
    assert "history.arrow" in told
    assert "no state here" not in told

    shutil.rmtree(out / "state" / "all")
    (tmp_path / "data" / "part-1.csv").unlink()
    assert main(["forget", str(out), "--where", "person=3"]) == 0
    told = capsys.readouterr().out
    assert "gone: part-1.csv" in told
    assert "participants that keep no state here: 1" in told


def killed_at_rename(number: int, after: bool, out: Path, asked: pa.Table) -> bool:
    """Forget in a child process that dies silently before, or after, its rename of that number; whether it did."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    replace, done = os.replace, 0

    def deadly(source: Path, target: Path) -> None:
        nonlocal done
        done += 1
        if done != number or after:
            replace(source, target)
        if done == number:
            os._exit(9)

    os.replace = deadly  # type: ignore[assignment]
    try:
        erase(out, asked)
    finally:
        os._exit(0)


def test_an_erasure_killed_anywhere_is_finished_by_the_same_call_or_by_the_one_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data", rows=60)
    wanted, whole, out = job(tmp_path, baselines={"none": ["model.hidden=[3]"]}), tmp_path / "whole", tmp_path / "run"
    run(wanted, whole)
    asked = rows_where(whole, f"person={SHY}")[0]
    for kills in count():
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole, out)
        if not killed_at_rename(1 + 3 * kills, kills % 2 == 1, out, asked):
            break
        if marked := (out / "erasing.parquet").exists():
            with pytest.raises(RunDirectoryError, match=r"of 6 rows has begun .*; run incr forget .*/run --rows"):
                run(wanted, out)
        else:
            assert traces(out) in ([], traces(whole)), "an erasure that is half done is marked"
        if marked and kills % 2:
            assert main(["forget", str(out), "--rows", str(out / "erasing.parquet")]) == 0
        else:
            erase(out, asked)
        assert traces(out) == []
        assert [erased(folder).num_rows for folder in (out, out / "baselines" / "none")] == [6, 6]
        assert not list(out.rglob("erasing.parquet"))
    assert kills > 4
    assert traces(out) == []
    run(wanted, out)


@pytest.mark.parametrize(
    "damaged",
    ["state/all/*/tensors-*", "versions/1/commit.zip", "quarantine/*", "baselines/none/state/all/*/state.json"],
)
def test_nothing_is_changed_where_something_cannot_be_read(tmp_path: Path, damaged: str) -> None:
    write(tmp_path / "data", rows=60)
    out = tmp_path / "run"
    run(job(tmp_path, baselines={"none": ["model.hidden=[3]"]}), out)
    asked = rows_where(out, f"person={SHY}")[0]
    file = sorted(out.glob(damaged))[-1]
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    before = content(out)
    with pytest.raises(CheckpointError, match=str(file)):
        erase(out, asked)
    assert content(out) == before


def test_rows_erased_before_and_learned_since_are_deleted_again(tmp_path: Path) -> None:
    write(tmp_path / "data", rows=60)
    out = tmp_path / "run"
    run(job(tmp_path, baselines={}), out)
    every = rows_where(out, f"person={SHY}")[0]
    add_erased(out, every)  # as if their labels had come after an erasure
    assert traces(out) != []
    other = pa.table({"fragment": ["part-9.csv"], "offset": [1]})
    assert erase(out, other)["remembered"] == 0
    assert traces(out) == []


def test_a_condition_that_no_row_meets_deletes_nothing_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data", rows=60)
    out = tmp_path / "run"
    run(job(tmp_path, strategy=STRATEGIES[1:2], baselines={}), out)
    assert main(["forget", str(out), "--where", "person=99"]) == 0
    assert capsys.readouterr().out == "no row has person=99; nothing was deleted\n"
    assert main(["forget", str(out), "--where", "person=3"]) == 0
    told = capsys.readouterr().out
    assert "6 rows: " in told
    assert " in memories" in told
    assert "0 " not in told.split("deleted: ")[1].splitlines()[0]
