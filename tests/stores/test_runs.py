"""A run whose directory is at an address: the bits of one in a folder, and all that one does with a run."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from incr_core.commands.audit import audit
from incr_core.errors import CheckpointError, RunDirectoryError, StoreError
from incr_core.job import Job
from incr_core.runs import Run, run
from incr_core.storage import ObjectStore, store_errors
from incr_core.storage._integrity import content_of
from incr_core.storage._snapshots import Snapshots
from incr_core.storage._working_copy import WorkingCopy


@pytest.mark.slow
def test_a_run_has_the_bits_of_one_in_a_folder(tmp_path: Path, place: str, small_job: Callable[..., Job]) -> None:
    here = run(small_job(), tmp_path / "here")
    there = run(small_job(), place)
    assert there.summary.model_sha256 == here.summary.model_sha256
    assert there.table("ledger").equals(here.table("ledger"))
    assert [version.model_sha256 for version in there.versions] == [version.model_sha256 for version in here.versions]
    assert audit(place).holds
    people: pa.Table = pa.table({"height": [180.0], "weight": [70.0], "colour": ["red"]})
    assert there.champion.predict(people).equals(here.champion.predict(people))
    assert Run(place).summary.rows_learned == 470


def killed(how: str, step: int, job: Job, place: str) -> bool:
    """Run a job in a process that kills itself before or after so many writes to the store; whether it came to that."""
    child = multiprocessing.get_context("fork").Process(target=_run_and_die, args=(how, step, job, place))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def _run_and_die(how: str, step: int, job: Job, place: str) -> None:
    left = step

    def dying(write: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and how == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            done = write(*arguments)
            if left == 0 and how == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return wrapped

    for name in ("put", "upload", "create", "remove"):
        setattr(ObjectStore, name, dying(getattr(ObjectStore, name)))
    run(job, place)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, small_job: Callable[..., Job]) -> Run:
    return run(small_job(), tmp_path_factory.mktemp("undisturbed") / "run")


def assert_goes_on(job: Job, place: str, undisturbed: Run) -> None:
    """The run goes on to the bits of an undisturbed one, every row in one version, and no object is left over."""
    there = run(job, place)
    assert there.summary.model_sha256 == undisturbed.summary.model_sha256
    assert there.table("ledger").equals(undisturbed.table("ledger"))
    assert audit(place).holds
    store = ObjectStore(place)
    manifests = store.get_all(store.names("manifest/")).values()
    ever = {at[0] for manifest in manifests for at in json.loads(manifest)["files"].values()}
    objects = {*store.names("objects/")}
    assert {at[0] for at in Snapshots(store).newest().files.values()} <= objects <= ever


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "step"), [*zip(["before", "after"], random.Random(9).sample(range(2, 18), 2), strict=True)]
)
def test_a_run_killed_at_a_write_goes_on(
    place: str, small_job: Callable[..., Job], undisturbed: Run, how: str, step: int
) -> None:
    assert killed(how, step, small_job(), place)
    assert_goes_on(small_job(), place, undisturbed)


@pytest.mark.chaos
@pytest.mark.parametrize("how", ["before", "after"])
def test_a_run_killed_at_every_write_in_turn_goes_on(
    place: str, small_job: Callable[..., Job], undisturbed: Run, how: str
) -> None:
    step = 1
    while killed(how, step, small_job(), f"{place}/{step}"):
        assert_goes_on(small_job(), f"{place}/{step}", undisturbed)
        step += 1
    assert step > 15
    # And all of them one after another, in one run: each comes a little further than the one before.
    for again in range(2, 40):
        if not killed(how, 4 + again % 5, small_job(), place):
            break
    assert_goes_on(small_job(), place, undisturbed)


def test_of_two_writers_one_loses_by_name(place: str) -> None:
    """Both have taken it, as where the first was silent for too long: what is true is who makes the next manifest."""
    one, other = WorkingCopy(place), WorkingCopy(place)
    for number, copy in enumerate((one, other)):
        (copy.folder / "champion").write_text(str(number))
    one.push({"pid": 7, "host": "first"})
    with pytest.raises(StoreError, match=r"another process \(pid 7 on first\) has continued this run"):
        other.push({"pid": 8, "host": "second"})
    late = WorkingCopy(place)
    late.pull()
    assert (late.folder / "champion").read_text() == "0"


def test_a_second_writer_is_refused_while_the_first_gives_signs_of_life(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incr_core.storage._writer.BEAT", 0.2)
    one, other = WorkingCopy(place), WorkingCopy(place)
    one.writer.take(lasting=True)
    with pytest.raises(RunDirectoryError, match=rf"another process \(pid {os.getpid()} on .* is writing this run"):
        other.writer.take()
    assert other.writer.holder() is not None
    one.writer.release()
    assert other.writer.holder() is None
    other.writer.take()
    other.writer.release()


@pytest.mark.slow
def test_a_writer_whose_host_is_gone_is_followed(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incr_core.storage._writer.SILENCE", 1.0)
    sign = {"pid": 1, "host": "gone", "boot": "", "started": "", "token": "", "beat": 3, "lasting": True, "at": ""}
    ObjectStore(place).put("writer", json.dumps(sign).encode())
    copy = WorkingCopy(place)
    copy.writer.take()
    assert copy.writer.taken
    copy.writer.release()


@pytest.mark.slow
def test_a_store_that_refuses_a_commit_leaves_a_run_that_goes_on(
    place: str, small_job: Callable[..., Job], undisturbed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def full(self: ObjectStore, files: Any) -> None:
        calls.append(files)
        if len(calls) > 2:
            with store_errors(self.address, "written"):
                raise PermissionError("Access Denied")
        upload(self, files)

    upload = ObjectStore.upload
    monkeypatch.setattr(ObjectStore, "upload", full)
    with pytest.raises(StoreError, match=r"cannot be written: the store refuses \(Access Denied\)"):
        run(small_job(), place)
    monkeypatch.undo()
    assert Run(place).status.version == 2
    assert_goes_on(small_job(), place, undisturbed)


@pytest.mark.slow
def test_what_one_does_with_a_run(place: str, small_job: Callable[..., Job], people: Path) -> None:
    there = run(small_job("publish.keep=2", "publish.every=1"), place)
    there.promote(4)
    assert Run(place).champion.number == 4
    assert [version.has_weights for version in there.versions] == [False, False, False, True, True]
    assert there.erase("colour=red")["learned"] > 0
    assert audit(place).holds
    assert audit(place).states.states["erased"] > 0
    assert there.champion.evaluate(people)["rows"] == 470
    assert ObjectStore(place).exists("report.html")
    with pytest.raises(RunDirectoryError, match=r"holds the run of another job: learner\.seed"):
        run(small_job("learner.seed=3"), place)


@pytest.mark.slow
def test_a_reader_whose_file_was_removed_sees_what_is_newest(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incr_core.storage._working_copy.LINGER", -1.0)
    writer, reader = WorkingCopy(place), WorkingCopy(place)
    (writer.folder / "old.zip").write_bytes(b"old")
    writer.push({})
    reader.pull()
    (writer.folder / "old.zip").unlink()
    (writer.folder / "new.zip").write_bytes(b"new")
    writer.push({})
    with pytest.raises(CheckpointError, match=r"old\.zip: expected a file, found none"):
        content_of(reader.folder / "old.zip")
    assert not (reader.folder / "old.zip").exists()
    assert content_of(reader.folder / "new.zip") == b"new"
