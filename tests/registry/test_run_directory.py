"""Versions come back as they were committed, and one of them is the champion."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from incr_core.data import row_ids
from incr_core.errors import CheckpointError, VersionError
from incr_core.registry import Committed, RunDirectory, Segment, Segments, read_index
from incr_core.registry.ledger import SCHEMA, count, entry_table
from incr_core.storage import model_sha256
from tests.support.versions import assert_consistent, commit, start


def test_versions_come_back_as_committed(run: RunDirectory) -> None:
    weights, manifest = run.load()
    assert weights["weight"].tolist() == [3.0, 3.0, 3.0]
    assert manifest["parent"] == 2
    assert (manifest["increment"], manifest["name"], manifest["cursor"]) == (3, "day 3", {"fragment": 3})
    assert manifest["rows"] == 10
    assert manifest["model_sha256"] == model_sha256(weights)
    assert manifest["files"].keys() == {"model.safetensors", "history.arrow"}
    assert manifest["tables"] == {"metrics": 1, "ledger": 2, "quarantine": 1}
    assert run.extra_table(3, "history").to_pydict() == {"delay": [1.0]}
    assert [(m["champion"], m["has_weights"]) for m in run.versions()] == [(False, True)] * 2 + [(True, True)]
    run.close()
    assert_consistent(RunDirectory.open(run.path), 3)
    assert (run.path / "champion").read_text() == "3\n"
    with zipfile.ZipFile(run.path / "versions" / "1" / "commit.zip") as archive:
        assert json.loads(archive.read("manifest.json"))["parent"] is None


def test_tied_weights_are_stored_under_both_names(tmp_path: Path) -> None:
    weight = torch.arange(4.0)
    with start(tmp_path) as run:
        run.commit(
            {"in": weight, "out": weight, "view": weight[::2]},
            manifest={},
            metrics=pa.table({}),
            ledger=SCHEMA.empty_table(),
        )
        assert run.load()[0]["view"].tolist() == [0.0, 2.0]


def test_a_row_learned_before_is_refused_and_nothing_is_committed(run: RunDirectory) -> None:
    again = entry_table(4, "AA", row_ids(0, 21, 22), ["a.parquet"], increment=4)
    message = r"row 21 of a.parquet is learned twice: by AA in version 2, by AA in version 4"
    with pytest.raises(CheckpointError, match=message):
        commit(run, ledger=again)
    run.close()
    with start(run.path) as resumed:
        with pytest.raises(CheckpointError, match=message):
            commit(resumed, ledger=again)
        assert resumed.latest() == 3


def test_a_promotion_lasts_until_the_next_publication(run: RunDirectory) -> None:
    run.promote(1)
    run.close()
    with start(run.path) as again:
        assert (again.champion(), again.latest()) == (1, 3)
        assert again.load()[0]["steps"] == 1
        assert commit(again, publish=False) == 4
        assert again.champion() == 1
        assert RunDirectory.open(run.path).champion() == 1
        assert again.load(4)[1]["parent"] == 3
    with start(run.path) as again:
        assert again.champion() == 1
        assert commit(again) == 5
        assert again.champion() == 5


def test_a_promotion_of_the_version_before_is_not_taken_for_a_kill(run: RunDirectory) -> None:
    run.promote(2)
    run.close()
    assert RunDirectory.open(run.path).champion() == 2
    RunDirectory.open(run.path).promote(3)
    assert RunDirectory.open(run.path).champion() == 3


@pytest.mark.parametrize("chosen", ["promote", "pin"])
def test_a_newest_version_that_was_held_back_stays_the_champion_once_chosen(run: RunDirectory, chosen: str) -> None:
    assert commit(run, publish=False) == 4
    run.close()
    assert RunDirectory.open(run.path).champion() == 3
    getattr(RunDirectory.open(run.path), chosen)(4)
    found = RunDirectory.open(run.path)
    assert (found.champion(), found.promoted_by_hand()) == (4, True)
    with start(run.path) as again:
        assert commit(again, publish=False) == 5
        assert again.champion() == 4
    assert RunDirectory.open(run.path).champion() == 4


def test_a_version_that_does_not_exist_is_refused_naming_those_that_do(run: RunDirectory, tmp_path: Path) -> None:
    for ask in (run.load, run.promote, lambda version: run.extra_table(version, "history")):
        with pytest.raises(VersionError, match=r"run: no version 9; there are versions 1 to 3"):
            ask(9)
    with start(tmp_path / "empty") as empty:
        with pytest.raises(VersionError, match="empty: no version yet; let the run commit one"):
            empty.load()
        with pytest.raises(VersionError, match="empty: no version 1; there is none yet"):
            empty.promote(1)


def test_old_weights_are_pruned_but_never_the_champions(tmp_path: Path) -> None:
    with start(tmp_path, keep=2) as run:
        commit(run)
        commit(run)
        run.promote(1)
        for _ in range(3):
            commit(run, publish=False)
        assert [m["version"] for m in run.versions() if m["has_weights"]] == [1, 4, 5]
        with pytest.raises(VersionError, match=r"version 3: its weights were pruned; versions with weights: 1, 4 to 5"):
            run.load(3)
        assert count(run.table("ledger", 3, 3)) == 10
        assert not (tmp_path / "versions" / "3" / "history.arrow").exists()
        commit(run)
        assert [m["version"] for m in run.versions() if m["has_weights"]] == [5, 6]
        assert count(run.table("ledger")) == 60
    assert RunDirectory.open(tmp_path).load(5)[0]["steps"] == 5


def test_a_participant_keeps_its_last_two_states_however_old(run: RunDirectory) -> None:
    for _ in range(3):
        version = run.next_version()
        only_aa = entry_table(version, "AA", row_ids(1, version, version + 1), ["", "b.parquet"], increment=0)
        commit(run, ledger=only_aa, participants=["AA"], state={})
    states = {
        folder.name: sorted(int(state.name) for state in folder.iterdir()) for folder in (run.path / "state").iterdir()
    }
    assert states["AA"] == [5, 6]
    assert sorted(path.parent.name for path in run.path.rglob("state.zip")) == ["5", "6"]
    assert states["B6"][:2] == [2, 3]


def test_reserved_manifest_names_are_refused(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match="manifest: parent, version: set by the registry"):
        commit(run, manifest={"version": 7, "parent": 1})


@pytest.mark.slow
def test_what_grows_is_in_few_files_however_many_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights of two versions kept, 200 commits leave a segment for every bit of their number, and few folders."""
    monkeypatch.setattr("incr_core.registry._committing.FOLD", 4)
    written: list[int] = []
    real = Segments._written

    def counted(segments: Segments, first: int, last: int, tables: dict[str, pa.Table]) -> Segment:
        written.append(last - first + 1)
        return real(segments, first, last, tables)

    with monkeypatch.context() as patch, start(tmp_path, keep=2) as run:
        patch.setattr(Segments, "_written", counted)
        for _ in range(200):
            commit(run)
        assert len(list((tmp_path / "versions").iterdir())) <= 2 + 4
        assert [segment.versions for segment in read_index(tmp_path)] == [128, 64, 8]
        assert len(list((tmp_path / "metrics").iterdir())) == 3
    assert sum(written) <= 200 * 7  # each version again as often as sizes double
    with start(tmp_path, keep=2) as run:
        assert count(run.table("ledger")) == 2000
        assert run.table("metrics", 127, 130)["version"].to_pylist() == [127, 128, 129, 130]
        assert [manifest["version"] for manifest in run.versions()] == list(range(1, 201))
        with pytest.raises(CheckpointError, match=r"row 70 of a.parquet is learned twice: by AA in version 7, by x"):
            commit(run, ledger=entry_table(201, "x", row_ids(0, 70, 71), ["a.parquet"], increment=0))
    assert Committed.read(tmp_path).violations == []


def test_a_reader_follows_a_writer_that_folds_and_prunes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incr_core.registry._committing.FOLD", 3)
    with start(tmp_path, keep=1) as run:
        readers = []
        for number in range(1, 20):
            commit(run)
            readers.append(RunDirectory.open(tmp_path))
            assert readers[-1].table("metrics")["version"].to_pylist() == list(range(1, number + 1))
        for reader in readers:
            assert reader.table("metrics")["version"].to_pylist()[:1] == [1]
            assert [manifest["version"] for manifest in reader.versions()][:1] == [1]
