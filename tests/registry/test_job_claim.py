"""A run directory belongs to one job, and to one writer at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from incr_core.errors import RunDirectoryError, StorageError
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import count
from tests.support.versions import JOB, commit, start


def test_another_jobs_run_is_refused_naming_what_differs(run: RunDirectory) -> None:
    run.close()
    other = JOB.replace("seed = 1", "seed = 2").replace("rows = 100", "rows = 7").replace("lr = 0.1", "clip = 1")
    with pytest.raises(RunDirectoryError) as caught:
        RunDirectory.create(run.path, other, "beef")
    assert str(caught.value) == (
        f"{run.path}: holds the run of another job: learner.seed: 1 there, 2 here; "
        "learner.clip: nothing there, 1 here; strategy[0].rows: 100 there, 7 here; and 1 more; "
        "choose another --out, or run the job it belongs to"
    )
    start(run.path).close()  # and the lock was given back


def test_equal_jobs_with_other_fingerprints_are_told_apart(run: RunDirectory) -> None:
    run.close()
    with pytest.raises(RunDirectoryError, match="another job: fingerprint: f00d there, beef here; choose"):
        RunDirectory.create(run.path, JOB, "beef")


def test_the_same_job_on_another_engine_is_refused_naming_both(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, JOB, "local:f00d") as run:
        commit(run)
    with pytest.raises(RunDirectoryError, match="another job: engine: local there, cluster here; choose"):
        RunDirectory.create(tmp_path, JOB, "cluster:f00d")


def test_a_job_that_has_committed_nothing_may_be_mended(tmp_path: Path) -> None:
    """And what it left of a state is not taken for the other's."""
    with start(tmp_path) as run:
        (run.path / "state" / "loop" / "1").mkdir(parents=True)
    with RunDirectory.create(tmp_path, JOB.replace("seed = 1", "seed = 2"), "beef") as mended:
        assert mended.job()["learner"]["seed"] == 2
        assert not list((tmp_path / "state").iterdir())


def test_a_job_is_compared_as_it_would_be_written_now(tmp_path: Path) -> None:
    """An earlier incr wrote fewer keys: what it did without them is what they do at their defaults."""

    def as_now(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        now = {**document, "pace": "rows"}
        return now, f"{now['learner']['seed']}-{now['pace']}"

    with RunDirectory.create(tmp_path, JOB, "local:f00d") as run:
        commit(run)
    now = f'pace = "rows"\n{JOB}'
    with RunDirectory.create(tmp_path, now, "local:1-rows", as_now=as_now) as again:
        assert again.job()["pace"] == "rows"
        assert again.latest() == 1
    (tmp_path / "job.toml").write_text((tmp_path / "job.toml").read_text().replace('pace = "rows"\n', ""))
    with pytest.raises(RunDirectoryError, match=r"of another job: learner\.seed: 1 there, 2 here; choose"):
        RunDirectory.create(tmp_path, now.replace("seed = 1", "seed = 2"), "local:2-rows", as_now=as_now)
    with pytest.raises(RunDirectoryError, match=r"of another job: engine: local there, cluster here; choose"):
        RunDirectory.create(tmp_path, now, "cluster:1-rows", as_now=as_now)


def test_a_key_that_makes_no_other_run_may_change(run: RunDirectory) -> None:
    run.close()
    with RunDirectory.create(run.path, JOB.replace("lr = 0.1", "lr = 0.2"), "f00d") as again:
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
    (run.path / ".lock").unlink()
    (run.path / ".lock").mkdir()  # stops root too
    seen = RunDirectory.open(run.path)
    assert seen.load()[0]["steps"] == 3
    assert count(seen.table("ledger")) == 30
    with pytest.raises(StorageError, match=r"\.lock: cannot be written: Is a directory \(EISDIR\)"):
        seen.promote(1)


def test_what_is_no_run_directory_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="expected a run directory, found none; start one with `incr run`"):
        RunDirectory.open(tmp_path / "nowhere")


@pytest.mark.slow
def test_a_second_writer_is_refused_and_a_reader_is_not(run: RunDirectory) -> None:
    with pytest.raises(
        RunDirectoryError, match=rf"another process \(pid {os.getpid()} on .+\) is writing this run; wait"
    ):
        start(run.path)
    reader = RunDirectory.open(run.path)
    assert reader.latest() == 3
    with pytest.raises(RunDirectoryError, match="is writing this run"):
        reader.promote(1)
    with pytest.raises(RunDirectoryError, match=r"expected to be taken with create\(\) before a commit"):
        commit(reader)


@pytest.mark.slow
def test_the_lock_dies_with_its_process_and_its_forks_do_not_keep_it(tmp_path: Path) -> None:
    script = f"""
import os, sys, time
from pathlib import Path
from tests.support.versions import start, commit
run = start(Path({str(tmp_path / "run")!r}))
commit(run)
child = os.fork()
if child == 0:
    time.sleep(900)
print(child, flush=True)
time.sleep(900)
"""
    writer = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    child = int(writer.stdout.readline())
    try:
        with pytest.raises(RunDirectoryError, match=rf"\(pid {writer.pid} on .+\)"):
            start(tmp_path / "run")
        writer.kill()
        writer.wait()
        with start(tmp_path / "run") as run:
            assert commit(run) == 2
    finally:
        os.kill(child, signal.SIGKILL)
        writer.stdout.close()


@pytest.mark.parametrize(("job", "on"), [("local:f00d", ""), ("cluster:f00d", " --on cluster"), ("f00d", "")])
def test_a_run_of_an_older_schema_is_refused_with_the_command_that_helps(tmp_path: Path, job: str, on: str) -> None:
    folder = tmp_path / "old"
    (folder / "versions" / "1").mkdir(parents=True)
    text = f"# incr run directory, schema 1, job {job}\n{JOB}"
    (folder / "job.toml").write_text(text)
    expected = (
        f"{folder}: expected a run directory of schema 3, found schema 1, of another incr, whose states cannot be "
        f"resumed; learn the stream again with `incr run {folder}/job.toml{on} --out {folder}-schema-3`, or use the "
        "incr that wrote it"
    )
    calls: list[Callable[[], object]] = [
        lambda: RunDirectory.open(folder),
        lambda: RunDirectory.create(folder, JOB, job),
    ]
    for refused in calls:
        with pytest.raises(RunDirectoryError) as found:
            refused()
        assert str(found.value) == expected
    assert [file.name for file in folder.iterdir() if file.name != "job.toml"] == ["versions"]
    assert (folder / "job.toml").read_text() == text
