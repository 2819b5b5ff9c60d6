"""A run directory is consistent whatever was killed, full or damaged, and says so when it cannot be."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from incr_core.errors import CheckpointError, StorageError
from incr_core.registry import Committed, RunDirectory
from incr_core.registry.ledger import count
from incr_core.storage import archive_bytes, checksummed, parse_checksummed, read_archive, sha256
from tests.support.versions import assert_consistent, commit, start


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


@pytest.mark.slow
@pytest.mark.parametrize("fold", [32, 1, 2])
@pytest.mark.parametrize("failure", [Killed, full])
def test_whatever_step_of_a_commit_fails_the_run_is_consistent_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Callable[[], BaseException], fold: int
) -> None:
    """fold: after how many commits there is a segment; of 1, the commit makes one and merges it with the one before."""
    monkeypatch.setattr("incr_core.registry._committing.FOLD", fold)
    # Nothing here survives a loss of power anyway, and the disk would take most of the time.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    with start(tmp_path / "before") as run:
        commit(run)
        commit(run)
        run._lock.release()  # as a killed run leaves it: of 2 and 1, folded
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
        assert_consistent(RunDirectory.open(folder), committed + 1)
    # Before one step there were two versions, after it three: there is one commit point.
    assert set(outcomes) == {2, 3}
    assert outcomes == sorted(outcomes)


def write_until_killed(folder: Path, seed: int) -> None:
    random.seed(seed)
    with start(folder, keep=random.choice([1, 2])) as run:
        while True:
            commit(run)


@pytest.mark.slow
def test_a_writer_that_is_killed_at_any_moment_leaves_a_run_that_readers_understand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments are made all the time, of every third version; a reader looks on meanwhile and sees no version go."""
    monkeypatch.setattr("incr_core.registry._committing.FOLD", 3)
    folder, context, seen = tmp_path / "run", multiprocessing.get_context("fork"), 0
    with start(folder) as run:
        commit(run)
    for kill in range(12):
        writer = context.Process(target=write_until_killed, args=(folder, kill))
        writer.start()
        until = time.monotonic() + 0.1 + 0.07 * kill
        # The last is killed when it has written something, however long that takes here.
        while time.monotonic() < until or (kill == 11 and seen <= 12):
            reader = RunDirectory.open(folder)
            told = reader.table("metrics")["version"].to_pylist()
            assert told == list(range(1, len(told) + 1))
            assert len(told) >= seen
            seen = len(told)
            assert reader.load()[1]["version"] <= (RunDirectory.open(folder).latest() or 0)
        writer.kill()
        writer.join()
        run = RunDirectory.open(folder)
        assert Committed.read(folder).violations == []
        assert count(run.table("ledger")) == 10 * (run.latest() or 0)
        assert not list(folder.rglob(".tmp-*"))


def test_after_a_full_disk_the_same_process_can_go_on(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_at(1, patch, full)
        with pytest.raises(StorageError, match="ENOSPC"):
            commit(run)
    assert commit(run) == 4
    run.close()
    assert_consistent(RunDirectory.open(run.path), 4)


@pytest.mark.slow
def test_a_disk_that_is_truly_full(tmp_path: Path) -> None:
    """A file size limit makes the kernel refuse, in a process of its own."""
    script = f"""
import resource, signal, sys
from pathlib import Path
from tests.support.versions import start, commit
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
    assert_consistent(RunDirectory.open(tmp_path / "run"), 1)


def test_segments_that_are_gone_are_written_anew_from_the_versions(run: RunDirectory) -> None:
    run.close()
    (run.path / "segments.json").unlink()
    (run.path / "metrics" / "of somebody else").write_text("")
    (run.path / "champion").write_text("")
    assert_consistent(RunDirectory.open(run.path), 3)


@pytest.mark.parametrize("name", ["model.safetensors", "commit.zip"])
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
    files = read_archive(folder / "commit.zip")
    manifest = parse_checksummed(files["manifest.json"], folder)
    manifest["files"]["model.safetensors"] = sha256(other)
    (folder / "commit.zip").write_bytes(archive_bytes(files | {"manifest.json": checksummed(manifest)}))
    with pytest.raises(CheckpointError, match=r"2/model.safetensors: expected model_sha256 \w{64}, found \w{64}"):
        run.load(2)


def test_damage_to_an_old_version_does_not_stop_the_run(run: RunDirectory) -> None:
    run.close()
    (run.path / "versions" / "1" / "model.safetensors").write_bytes(b"")
    with start(run.path) as again:
        assert commit(again) == 4
