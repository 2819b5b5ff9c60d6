"""A run directory is consistent whatever happened to it, and says so when it cannot be."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core import checkpoint, tables
from incr_core.errors import CheckpointError, RunDirectoryError, StorageError, VersionError
from incr_core.files import remove, write_atomically
from incr_core.ledger import SCHEMA, check, count, entry_table
from incr_core.registry import RunDirectory
from incr_core.rows import row_ids
from incr_core.seal import model_sha256, seal, sha256, unseal
from incr_core.states import state_folder

JOB = 'name = "flights"\n[learner]\nseed = 1\nlr = 0.1\n[[strategy]]\nkind = "replay"\nrows = 100\n'


def start(folder: Path, **options: Any) -> RunDirectory:
    return RunDirectory(folder, **options).create(JOB, "f00d")


def commit(run: RunDirectory, **options: Any) -> int:
    """Commit ten rows of metrics-worthy work; the weights say which version they are."""
    version = run.next_version()
    for participant in ("AA", "B6"):
        checkpoint.save(state_folder(run.path, participant, version), {"version": version})
    rows = row_ids(0, 10 * version, 10 * version + 10)
    quarantine = pa.table({"row": [version], "reason": ["label: not a number"]}) if version % 2 else None
    arguments: dict[str, Any] = {
        "manifest": {"increment": version, "name": f"day {version}", "cursor": {"fragment": version}},
        "metrics": pa.table({"increment": [version], f"loss.{version % 2}": [0.5], "version": [version]}),
        "ledger": pa.concat_tables(
            entry_table(version, name, part, ["a.parquet"], increment=version)
            for name, part in (("AA", rows[:5]), ("B6", rows[5:]))
        ),
        "quarantine": quarantine,
        "extra": {"history": pa.table({"delay": [1.0]})},
        **options,
    }
    return run.commit({"weight": torch.full((3,), float(version)), "steps": torch.tensor(version)}, **arguments)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    with start(tmp_path / "run") as run:
        for _ in range(3):
            commit(run)
        yield run


def assert_consistent(run: RunDirectory, versions: int) -> None:
    """What is in memory, in the single files and in the versions agree, and no row is lost or twice."""
    assert [manifest["version"] for manifest in run.versions()] == list(range(1, versions + 1))
    assert run.table("metrics")["version"].to_pylist() == list(range(1, versions + 1))
    check(run.table("ledger"))
    assert count(run.table("ledger")) == 10 * versions
    assert run.table("quarantine").num_rows == (versions + 1) // 2
    for name in ("metrics", "ledger", "quarantine") if versions else ():
        assert pq.ParquetFile(run.path / f"{name}.parquet").read().equals(run.table(name), check_metadata=False)
    assert run.champion() == run.latest() == (versions or None)
    for version in range(1, versions + 1):
        assert run.load(version)[0]["steps"] == version
    assert not list(run.path.rglob(".tmp-*"))
    for folder in (run.path / "state").iterdir():
        assert sorted(int(state.name) for state in folder.iterdir()) == list(range(max(1, versions - 1), versions + 1))


def test_versions_come_back_as_committed(run: RunDirectory) -> None:
    weights, manifest = run.load()
    assert weights["weight"].tolist() == [3.0, 3.0, 3.0]
    assert manifest["parent"] == 2
    assert (manifest["increment"], manifest["name"], manifest["cursor"]) == (3, "day 3", {"fragment": 3})
    assert manifest["rows"] == 10
    assert manifest["model_sha256"] == model_sha256(weights)
    assert manifest["files"].keys() == {
        *("model.safetensors", "history.arrow", "metrics.parquet", "ledger.parquet", "quarantine.parquet")
    }
    assert run.part(3, "history.arrow").to_pydict() == {"delay": [1.0]}
    assert [(m["champion"], m["has_weights"]) for m in run.versions()] == [(False, True)] * 2 + [(True, True)]
    run.close()
    assert_consistent(RunDirectory(run.path).open(), 3)
    assert (run.path / "champion").read_text() == "3\n"
    assert json.loads((run.path / "versions" / "1" / "manifest.json").read_text())["parent"] is None


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


# Kills and full disks


class Killed(BaseException):
    """What a kill looks like to a test: nothing after it runs."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch, failure: Callable[[], BaseException]) -> list[str]:
    """Fail at the step-th change that anything makes to the disk from now on, and at every one after it."""
    steps: list[str] = []

    def failing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            steps.append(name)
            if len(steps) >= step:
                raise failure()
            return real(*arguments, **options)

        return wrapped

    for module, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (Path, "write_bytes"), (Path, "mkdir")):
        monkeypatch.setattr(module, name, failing(name, getattr(module, name)))
    return steps


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("failure", [Killed, full])
def test_whatever_step_of_a_commit_fails_the_run_is_consistent_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Callable[[], BaseException]
) -> None:
    # Nothing here survives a loss of power anyway, and the disk would take most of the time.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    with start(tmp_path / "before") as run:
        commit(run)
        commit(run)
    outcomes = []
    for step in range(1, 100):
        folder = tmp_path / str(step)
        shutil.copytree(tmp_path / "before", folder)
        run = start(folder)
        with monkeypatch.context() as patch:
            # A dead process cleans nothing up.
            if failure is Killed:
                patch.setattr(shutil, "rmtree", lambda *_, **__: None)
                patch.setattr(Path, "unlink", lambda *_, **__: None)
            steps = kill_at(step, patch, failure)
            try:
                commit(run)
            except (StorageError, Killed) as error:
                message = str(error)
        run._lock.release()
        if len(steps) < step:
            break
        if failure is full:
            assert str(folder) in message
            assert "No space left on device (ENOSPC); earlier versions are intact" in message
        with start(folder) as again:
            committed = again.latest() or 0
            outcomes.append(committed)
            assert_consistent(again, committed)
            commit(again)
        assert_consistent(RunDirectory(folder).open(), committed + 1)
    # Before one step there were two versions, after it three: there is one commit point.
    assert set(outcomes) == {2, 3}
    assert outcomes == sorted(outcomes)


def test_after_a_full_disk_the_same_process_can_go_on(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_at(1, patch, full)
        with pytest.raises(StorageError, match="ENOSPC"):
            commit(run)
    assert commit(run) == 4
    run.close()
    assert_consistent(RunDirectory(run.path).open(), 4)


def test_a_disk_that_is_truly_full(tmp_path: Path) -> None:
    """A file size limit makes the kernel refuse, in a process of its own."""
    script = f"""
import resource, signal, sys
from pathlib import Path
from tests.core.test_registry import start, commit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = start(Path({str(tmp_path / "run")!r}))
commit(run)
resource.setrlimit(resource.RLIMIT_FSIZE, (150, 150))
try:
    commit(run)
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("StorageError ")
    assert "cannot be written: File too large (EFBIG); earlier versions are intact" in done.stdout
    assert_consistent(RunDirectory(tmp_path / "run").open(), 1)


def test_damaged_or_stale_tables_are_rebuilt_from_the_versions(run: RunDirectory) -> None:
    run.close()
    (run.path / "metrics.parquet").write_bytes(b"PAR1 cut")
    (run.path / "ledger.parquet").unlink()
    pq.write_table(pa.table({"of": ["somebody else"]}), run.path / "quarantine.parquet")
    (run.path / "champion").write_text("")
    assert_consistent(RunDirectory(run.path).open(), 3)


def test_a_table_of_the_future_is_rebuilt(run: RunDirectory) -> None:
    """Version 3 was taken away by hand, so the tables must forget it."""
    run.close()
    remove(run.path / "versions" / "3")
    assert RunDirectory(run.path).open().table("metrics")["version"].to_pylist() == [1, 2]


# Whose folder


def test_another_jobs_run_is_refused_naming_what_differs(run: RunDirectory) -> None:
    run.close()
    other = JOB.replace("seed = 1", "seed = 2").replace("rows = 100", "rows = 7").replace("lr = 0.1", "clip = 1")
    with pytest.raises(RunDirectoryError) as caught:
        RunDirectory(run.path).create(other, "beef")
    assert str(caught.value) == (
        f"{run.path}: holds the run of another job: learner.seed: 1 there, 2 here; "
        "learner.clip: 'nothing' there, 1 here; strategy[0].rows: 100 there, 7 here; and 1 more; "
        "choose another --out, or run the job it belongs to"
    )
    start(run.path).close()  # and the lock was given back


def test_equal_jobs_with_other_fingerprints_are_told_apart(run: RunDirectory) -> None:
    run.close()
    with pytest.raises(RunDirectoryError, match="another job: fingerprint: f00d there, beef here; choose"):
        RunDirectory(run.path).create(JOB, "beef")


def test_a_key_that_makes_no_other_run_may_change(run: RunDirectory) -> None:
    run.close()
    with RunDirectory(run.path).create(JOB.replace("lr = 0.1", "lr = 0.2"), "f00d") as again:
        assert again.job()["learner"]["lr"] == 0.2
        assert again.latest() == 3


def test_a_folder_with_other_files_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunDirectoryError, match=r"empty folder, found other files \(job.toml, thesis.tex\); choose"):
        start(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["job.toml", "thesis.tex"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunDirectoryError, match="run: expected a folder, found a file"):
        start(tmp_path / "run")


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/run: cannot be written: Not a directory"):
        start(tmp_path / "file" / "run")


def test_a_run_that_cannot_be_written_can_be_read(run: RunDirectory) -> None:
    run.close()
    (run.path / "ledger.parquet").unlink()
    (run.path / ".lock").unlink()
    (run.path / ".lock").mkdir()  # stops root too
    seen = RunDirectory(run.path).open()
    assert seen.load()[0]["steps"] == 3
    assert count(seen.table("ledger")) == 30
    with pytest.raises(StorageError, match=r"\.lock: cannot be written: Is a directory \(EISDIR\)"):
        seen.rollback(1)


def test_what_is_no_run_directory_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="expected a run directory, found none; start one with `incr run`"):
        RunDirectory(tmp_path / "nowhere").open()


# Two writers


def test_a_second_writer_is_refused_and_a_reader_is_not(run: RunDirectory) -> None:
    with pytest.raises(RunDirectoryError, match=rf"another process \(pid {os.getpid()}\) is writing this run; wait"):
        start(run.path)
    reader = RunDirectory(run.path).open()
    assert reader.latest() == 3
    with pytest.raises(RunDirectoryError, match="is writing this run"):
        reader.rollback(1)
    with pytest.raises(RunDirectoryError, match=r"expected to be taken with create\(\) before a commit"):
        commit(reader)


def test_the_lock_dies_with_its_process_and_its_forks_do_not_keep_it(tmp_path: Path) -> None:
    script = f"""
import os, sys, time
from pathlib import Path
from tests.core.test_registry import start, commit
run = start(Path({str(tmp_path / "run")!r}))
commit(run)
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
time.sleep(60)
"""
    writer = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    child = int(writer.stdout.readline())
    try:
        with pytest.raises(RunDirectoryError, match=rf"\(pid {writer.pid}\)"):
            start(tmp_path / "run")
        writer.kill()
        writer.wait()
        with start(tmp_path / "run") as run:
            assert commit(run) == 2
    finally:
        os.kill(child, signal.SIGKILL)
        writer.stdout.close()


# The law of the ledger


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


# Rollback, champion, pruning


def test_a_rollback_lasts_until_the_next_publication(run: RunDirectory) -> None:
    run.rollback(1)
    run.close()
    with start(run.path) as again:
        assert (again.champion(), again.latest()) == (1, 3)
        assert again.load()[0]["steps"] == 1
        assert commit(again, publish=False) == 4
        assert again.champion() == 1
        assert RunDirectory(run.path).open().champion() == 1
        assert again.load(4)[1]["parent"] == 3
    with start(run.path) as again:
        assert again.champion() == 1
        assert commit(again) == 5
        assert again.champion() == 5


def test_a_rollback_to_the_version_before_is_not_taken_for_a_kill(run: RunDirectory) -> None:
    run.rollback(2)
    run.close()
    assert RunDirectory(run.path).open().champion() == 2
    RunDirectory(run.path).open().rollback(3)
    assert RunDirectory(run.path).open().champion() == 3


def test_a_version_that_does_not_exist_is_refused_naming_those_that_do(run: RunDirectory, tmp_path: Path) -> None:
    for ask in (run.load, run.rollback, lambda version: run.part(version, "metrics.parquet")):
        with pytest.raises(VersionError, match=r"run: no version 9; there are versions 1 to 3"):
            ask(9)
    with start(tmp_path / "empty") as empty:
        with pytest.raises(VersionError, match="empty: no version yet; let the run commit one"):
            empty.load()
        with pytest.raises(VersionError, match="empty: no version 1; there is none yet"):
            empty.rollback(1)


def test_old_weights_are_pruned_but_never_the_champions(tmp_path: Path) -> None:
    with start(tmp_path, keep=2) as run:
        commit(run)
        commit(run)
        run.rollback(1)
        for _ in range(3):
            commit(run, publish=False)
        assert [m["version"] for m in run.versions() if m["has_weights"]] == [1, 4, 5]
        with pytest.raises(VersionError, match=r"version 3: its weights were pruned; versions with weights: 1, 4 to 5"):
            run.load(3)
        assert count(run.part(3, "ledger.parquet")) == 10
        assert not (tmp_path / "versions" / "3" / "history.arrow").exists()
        commit(run)
        assert [m["version"] for m in run.versions() if m["has_weights"]] == [5, 6]
        assert count(run.table("ledger")) == 60
    assert RunDirectory(tmp_path).open().load(5)[0]["steps"] == 5


def test_a_participant_keeps_its_last_two_states_however_old(run: RunDirectory) -> None:
    for _ in range(3):
        version = run.next_version()
        checkpoint.save(state_folder(run.path, "loop", version), {})
        only_aa = entry_table(version, "AA", row_ids(1, version, version + 1), ["", "b.parquet"], increment=0)
        commit(run, ledger=only_aa, participants=["AA", "loop"])
    states = {
        folder.name: sorted(int(state.name) for state in folder.iterdir()) for folder in (run.path / "state").iterdir()
    }
    assert states["AA"] == states["loop"] == [5, 6]
    assert states["B6"][:2] == [2, 3]


# Damage


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_a_flipped_byte_is_refused_naming_file_version_and_what_is_intact(run: RunDirectory, name: str) -> None:
    file = run.path / "versions" / "2" / name
    intact = file.read_bytes()
    for position in np.linspace(0, len(intact) - 1, 25).astype(int):
        file.write_bytes(intact[:position] + bytes([intact[position] ^ 4]) + intact[position + 1 :])
        with pytest.raises(CheckpointError, match=rf"version 2 is damaged: .*2/{name}: .*; intact versions: 3, 1$"):
            run.load(2)
    file.unlink()
    with pytest.raises(CheckpointError, match=rf"version 2 is damaged: .*{name}: expected a file, found none"):
        run.load(2)


def test_a_model_that_is_not_the_manifests_is_refused_though_both_are_intact(run: RunDirectory) -> None:
    folder = run.path / "versions" / "2"
    other = (run.path / "versions" / "1" / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(other)
    manifest = unseal(folder / "manifest.json")
    manifest["files"]["model.safetensors"] = sha256(other)
    (folder / "manifest.json").write_bytes(seal(manifest))
    with pytest.raises(CheckpointError, match=r"2/model.safetensors: expected model_sha256 \w{64}, found \w{64}"):
        run.load(2)


def test_damage_to_an_old_version_does_not_stop_the_run(run: RunDirectory) -> None:
    run.close()
    (run.path / "versions" / "1" / "model.safetensors").write_bytes(b"")
    with start(run.path) as again:
        assert commit(again) == 4


def test_reserved_manifest_names_are_refused(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match="manifest: parent, version: set by the registry"):
        commit(run, manifest={"version": 7, "parent": 1})


# Cost


def test_tables_are_rewritten_for_a_bounded_share_of_the_time(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that ticks whenever it is read, a write takes a tick and must rest for twenty; four tables read it."""
    written: list[str] = []
    real, ticks = write_atomically, itertools.count(10**9)

    def counting(path: Path, content: bytes) -> None:
        written.append(path.name)
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_atomically", counting)
        patch.setattr("time.monotonic", lambda: float(next(ticks)))
        for _ in range(30):
            commit(run)
    assert 3 <= written.count("metrics.parquet") <= 8
    run.close()
    assert_consistent(RunDirectory(run.path).open(), 33)
