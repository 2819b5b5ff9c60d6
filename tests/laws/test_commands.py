"""What one does with a run afterwards comes to the same on every engine: forget, roll back, evaluate, distil, go on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.commands.audit import audit
from incr_core.commands.cli import main
from incr_core.commands.distill import distill
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.runs import erase, run
from incr_core.storage import checkpoint

pytest.importorskip("ray")
pytest.importorskip("flwr.app")

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.flower]

ENGINES: dict[str, tuple[str, list[str]]] = {
    "local": ("local", []),
    "replicas": ("cluster", ["cluster.replicas=2"]),
    "shards": ("cluster", ["cluster.replicas=1", "cluster.shards=2"]),
    "clients": ("federated", ['federated.clients="owner"']),
}
PERSON = 7
"""Whose rows are erased: every tenth; one of them cannot be used."""


def rows(first: int, count: int) -> pa.Table:
    row = np.arange(first, first + count)
    z = [f"secret {r}" if r % 50 == PERSON else str(r % 3) for r in row.tolist()]
    return pa.table({"x": row * 7 % 11 / 4, "z": z, "person": row % 10, "owner": row % 2, "y": row * 7 % 11 // 6})


@dataclass
class Finished:
    """A copy of a run that has ended, which a test may do anything to."""

    job: Job
    on: str
    data: Path
    out: Path

    def cli(self, *arguments: str) -> int:
        command, *rest = arguments
        return main([command, str(self.out), *rest])

    def states(self) -> dict[str, Any]:
        """What every participant has saved, by folder."""
        found = {str(file.parent): checkpoint.load(file.parent)[0] for file in self.out.rglob("state/**/state.json")}
        return {folder: state for folder, state in found.items() if "learner" in state}

    def erased(self, state: dict[str, Any], rows: torch.Tensor) -> torch.Tensor:
        """Which of these rows are the person's: row ids hold a file's number and an offset; files hold 100 rows."""
        names = state["cursor"]["fragments"]
        first = torch.tensor([100 * int(name.removeprefix("part-").removesuffix(".parquet")) for name in names])
        return (first[rows >> 40] + (rows & ((1 << 40) - 1))) % 10 == PERSON


@pytest.fixture(scope="module", params=ENGINES)
def ended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run over two files."""
    on, settings = ENGINES[request.param]
    if on != "local":
        request.getfixturevalue("ray_session")
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "data").mkdir()
    for part in range(2):
        pq.write_table(rows(100 * part, 100), folder / "data" / f"part-{part}.parquet")
    document = {
        "name": "commands",
        "stream": {"path": str(folder / "data"), "every": 40},
        "features": {"label": "y", "numeric": ["x", "z"], "classes": [0, 1], "on_bad_row": "quarantine"},
        "model": {"hidden": [4]},
        "learner": {"objective": "binary", "batch_size": 8, "consolidate": 60, "optimizer": {"name": "sgd", "lr": 0.3}},
        "strategy": [{"name": "replay", "capacity": 60}, {"name": "ewc", "strength": 0.1}],
        "review": {"every": 2, "rows": 5000},
        "publish": {"every": 2},
        "baselines": {"narrow": ["model.hidden=[3]"]},
    }
    job = Job.from_document(document, settings).resolved()
    run(job, folder / "run", on)
    return Finished(job, on, folder / "data", folder / "run")


@pytest.fixture
def finished(ended: Finished, tmp_path: Path) -> Finished:
    shutil.copytree(ended.out, tmp_path / "run")
    return Finished(ended.job, ended.on, ended.data, tmp_path / "run")


def by_hand(out: Path, version: int, x: np.ndarray[Any, Any], z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The probability of class 1, from a version's weights alone: normalise, one hidden layer, sigmoid."""
    found = RunDirectory.open(out).load(version)[0]
    w = {name.removeprefix("model."): value.double().numpy() for name, value in found.items()}
    count, total, square = w["moments.sums"]
    mean = total / count
    values = np.clip((np.stack([x, z], 1) - mean) / np.sqrt(square / count - mean**2), -8, 8)
    hidden = np.maximum(
        np.concatenate([values, np.zeros_like(values)], 1) @ w["layers.0.weight"].T + w["layers.0.bias"], 0
    )
    logit = hidden @ w["layers.2.weight"].T + w["layers.2.bias"]
    return np.asarray(1 / (1 + np.exp(-logit[:, 0])))


def numbers(table: pa.Table) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return table["x"].to_numpy(), table["z"].cast(pa.float64()).to_numpy()


def new_rows(folder: Path) -> tuple[Path, pa.Table]:
    """A file of rows that no run has met, all of which can be used."""
    table = rows(400, 100).filter(pa.array([row % 50 != PERSON for row in range(100)]))
    pq.write_table(table, folder / "new.parquet")
    return folder / "new.parquet", table


def learned_so_far(directory: RunDirectory) -> list[tuple[str, int]]:
    """The rows that are learned and not undone, by file and offset, with repetitions."""
    return [
        (entry["fragment"], row)
        for entry in directory.table("ledger").to_pylist()
        for span in entry["ranges"]
        for row in range(span["start"], span["stop"])
    ]


def learned(out: Path) -> set[tuple[str, int]]:
    """The rows of a run's ledger, by file and offset."""
    return {
        (entry["fragment"], row)
        for entry in pq.read_table(out / "ledger").to_pylist()
        for span in entry["ranges"]
        for row in range(span["start"], span["stop"])
    }


def test_evaluate_and_predict_are_what_the_champions_weights_come_to(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, table = new_rows(tmp_path)
    expected, y = by_hand(finished.out, 3, *numbers(table)), table["y"].to_numpy()
    assert finished.cli("evaluate", str(file), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["version"], found["rows"], found["rows_refused"]) == (3, 98, 0)
    assert found["accuracy"] == np.mean((expected >= 0.5) == y)
    assert found["log_loss"] == pytest.approx(-np.mean(np.log(np.where(y == 1, expected, 1 - expected))), rel=1e-5)
    assert finished.cli("predict", str(file), "-o", str(tmp_path / "told.parquet")) == 0
    told = pq.read_table(tmp_path / "told.parquet")["probability"].to_numpy()
    np.testing.assert_allclose(told, expected, rtol=1e-5)


def test_a_version_that_was_promoted_answers_and_the_run_goes_on_from_its_latest(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.cli("promote", "1") == 0
    assert capsys.readouterr().out == "champion: version 1 (was 3), until the next one is published\n"
    file, table = new_rows(tmp_path)
    assert finished.cli("predict", str(file), "-o", str(tmp_path / "told.parquet")) == 0
    told = pq.read_table(tmp_path / "told.parquet")["probability"].to_numpy()
    np.testing.assert_allclose(told, by_hand(finished.out, 1, *numbers(table)), rtol=1e-5)
    assert RunDirectory.open(finished.out).latest() == 3


def test_a_run_that_is_rolled_back_learns_the_rows_again_to_the_same_bits(finished: Finished) -> None:
    first = RunDirectory.open(finished.out)
    known = {version: first.load(version)[0] for version in (2, 3)}
    assert not all(value.equal(known[3][name]) for name, value in known[2].items())
    assert finished.cli("rollback", "2") == 0
    back = RunDirectory.open(finished.out)
    assert back.latest() == 4
    assert all(value.equal(back.load(4)[0][name]) for name, value in known[2].items())
    assert len(learned_so_far(back)) < 196

    assert run(finished.job, finished.out, finished.on).summary.rows_learned == 196
    again = RunDirectory.open(finished.out)
    assert again.latest() == 5
    assert all(value.equal(again.load(5)[0][name]) for name, value in known[3].items())
    assert len(learned_so_far(again)) == 196
    found = audit(finished.out)
    assert found.holds, found.violations


def test_erased_rows_are_in_no_state_and_all_others_stay_as_they_were(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    before, ledger = finished.states(), pq.read_table(finished.out / "ledger")
    weights = RunDirectory.open(finished.out).load()[0]
    assert finished.cli("forget", "--where", f"person={PERSON}", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["learned"], told["quarantined"], told["unknown"]) == (20, 16, 4, 0)
    assert (told["waiting"], told["predicted"], told["elsewhere"]) == (0, 0, 0)
    after = finished.states()
    assert told["states"] == len(after) == len(before) > 0

    newest = {folder: state for folder, state in before.items() if folder.endswith(("/3", "/3/shard-0"))}
    own = {folder: state for folder, state in newest.items() if "baselines" not in folder}
    gone = {"remembered": 0, "kept": 0}
    for folder, state in before.items():
        held, left = (
            {key: value for key, value in found["learner"]["strategies"].items() if key.startswith("0.memory.")}
            for found in (state, after[folder])
        )
        stays = ~finished.erased(state, held["0.memory.rows"])
        for name in ("inputs", "targets", "rows"):
            assert left[f"0.memory.{name}"].equal(held[f"0.memory.{name}"][stays])
        assert left["0.memory._extra_state"]["size"] == stays.sum()
        kept = [found["unconsolidated"]["kept"] for found in (state, after[folder])]
        if kept[0] is not None:
            remains = ~finished.erased(state, kept[0]["rows"])
            assert kept[1]["rows"].equal(kept[0]["rows"][remains])
            gone["kept"] += int((~remains).sum()) if folder in own else 0
        gone["remembered"] += int((~stays).sum()) if folder in own else 0
        for part in ("random", "generator", "step", "increment"):
            assert repr(state["learner"][part]) == repr(after[folder]["learner"][part])
    assert gone == {name: told[name] for name in gone}
    assert min(gone.values()) > 0

    assert pq.read_table(finished.out / "ledger").equals(ledger)
    assert pq.read_table(finished.out / "erased").num_rows == 20
    assert not (finished.out / "erasing.parquet").exists()
    values = pq.read_table(finished.out / "quarantine").to_pylist()
    assert [row["value"] for row in values if row["offset"] % 10 == PERSON] == [None] * 4
    found = RunDirectory.open(finished.out).load()[0]
    assert all(value.equal(found[name]) for name, value in weights.items())


def test_rows_by_their_addresses_are_erased_and_no_other(finished: Finished, tmp_path: Path) -> None:
    fragments = {name: state["cursor"]["fragments"] for name, state in finished.states().items()}

    def held() -> set[tuple[str, int]]:
        return {
            (fragments[folder][row >> 40], row & ((1 << 40) - 1))
            for folder, state in finished.states().items()
            for row in state["learner"]["strategies"]["0.memory.rows"].tolist()
        }

    before = held()
    chosen = sorted(before)[::9]
    asked = pa.table({"fragment": [name for name, _ in chosen], "offset": [offset for _, offset in chosen]})
    pq.write_table(asked, tmp_path / "asked.parquet")
    assert finished.cli("forget", "--rows", str(tmp_path / "asked.parquet")) == 0
    assert held() == before - set(chosen)


def test_a_run_that_goes_on_after_an_erasure_neither_reviews_nor_remembers_the_rows(finished: Finished) -> None:
    assert finished.cli("forget", "--where", f"person={PERSON}") == 0
    pq.write_table(rows(200, 120), finished.data / "part-2.parquet")
    try:
        summary = run(finished.job, finished.out, finished.on).summary
        late = RunDirectory.open(finished.out)
    finally:
        (finished.data / "part-2.parquet").unlink()
    assert (summary.rows_learned, summary.rows_quarantined) == (320 - 7, 7)
    assert len(learned(finished.out)) == 320 - 7
    reviews = [event for event in late.table("events").to_pylist() if event["kind"] == "review"]
    increments = late.table("metrics").to_pylist()
    for event in reviews:
        seen = sum(done["rows_labelled"] for done in increments if done["increment"] < event["increment"])
        assert event["rows"] == (seen if event["increment"] < 5 else seen - 16)
    assert reviews[-1]["increment"] > 5
    for state in finished.states().values():
        held = state["learner"]["strategies"]["0.memory.rows"]
        assert not (finished.erased(state, held) & (held >> 40 < 2)).any()


def test_a_student_is_taught_what_the_champion_learned_and_nothing_erased(finished: Finished, tmp_path: Path) -> None:
    distill(finished.out, tmp_path / "before", ["model.hidden=[3]"])
    assert learned(tmp_path / "before") == learned(finished.out)
    assert finished.cli("promote", "2") == 0
    assert finished.cli("forget", "--where", f"person={PERSON}") == 0
    summary = distill(finished.out, tmp_path / "after", ["model.hidden=[3]"])
    assert summary.taught_by is not None
    assert summary.taught_by["version"] == 2
    versions = RunDirectory.open(finished.out)
    upto = versions.versions()[1]["increment"]
    at_two = {
        (entry["fragment"], row)
        for entry in versions.table("ledger").to_pylist()
        if entry["increment"] <= upto
        for span in entry["ranges"]
        for row in range(span["start"], span["stop"])
    }
    assert learned(tmp_path / "after") == {(name, row) for name, row in at_two if row % 10 != PERSON}
    for file in (tmp_path / "after").rglob("state/all/*/state.json"):
        state = checkpoint.load(file.parent)[0]
        assert not finished.erased(state, state["learner"]["strategies"]["0.memory.rows"]).any()
    assert erase(tmp_path / "after", pq.read_table(finished.out / "erased"))["remembered"] == 0
