"""A commit that is written while the loop learns on: visible once all of it is there, and not before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from incr_core.engines import LocalEngine, Saving
from incr_core.errors import EngineError, JobError, StorageError, WorkerLost
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import check, count
from incr_core.rounds import Arrival, Round
from incr_core.storage import model_sha256
from incr_core.update import Weights


class Meanwhile(LocalEngine):
    """Learns on while a version waits to be written: until the gate of the increment after it is opened."""

    max_failures = 3

    def __init__(self, job: Job, directory: Path, raises: Mapping[int, Exception] | None = None) -> None:
        super().__init__(job, directory)
        self.raises = dict(raises or {})
        self.copies: dict[int, Weights] = {}
        self.there: list[list[int]] = []  # the versions there are, at each increment that is learned
        self.gate = threading.Event()

    def learn(self, arrivals: Sequence[Arrival], rows: Mapping[str, Tensor] | None = None) -> Round:
        number = arrivals[0].tick.number
        self.there.append(sorted(int(one.name) for one in (self.directory / "versions").glob("[0-9]*")))
        if (error := self.raises.pop(number, None)) is not None:
            raise error
        done = super().learn(arrivals, rows)
        self.gate.set()
        return done

    def save(self, version: int) -> Saving:
        self.gate.clear()
        copy = self.copies[version] = {name: value.clone() for name, value in self.weights().items()}

        def written(given_up: Callable[[], bool]) -> Weights:
            while not self.gate.wait(0.01):
                if given_up():
                    raise EngineError("nobody waits any more")
            return copy

        return replace(super().save(version), weights=written, meanwhile=True, settle=self.gate.set)


def learned(job: Job, out: Path, raises: Mapping[int, Exception] | None = None) -> Meanwhile:
    with RunDirectory.create(out, job.toml(), "local") as directory:
        engine = Meanwhile(job, out, raises)
        try:
            Loop(job, engine, directory).run()
        finally:
            engine.close()
    return engine


@pytest.fixture
def job(small_job: Callable[..., Job]) -> Job:
    return small_job("model.dropout=0.1", strategy=[{"name": "replay", "capacity": 60}])


@pytest.fixture
def undisturbed(job: Job, tmp_path: Path) -> str:
    with RunDirectory.create(tmp_path / "undisturbed", job.toml(), "local") as directory:
        engine = LocalEngine(job, tmp_path / "undisturbed")
        Loop(job, engine, directory).run()
        engine.close()
        return model_sha256(engine.weights())


def test_the_next_increment_is_learned_before_a_version_is_there(job: Job, undisturbed: str, tmp_path: Path) -> None:
    engine = learned(job, tmp_path / "run")
    assert engine.there == [[], [], [1], [1, 2], [1, 2, 3]]
    run = RunDirectory.open(tmp_path / "run")
    assert model_sha256(run.load(5)[0]) == undisturbed
    assert run.table("metrics")["version"].to_pylist() == [1, 2, 3, 4, 5]
    check(run.table("ledger"))
    assert count(run.table("ledger")) == 470
    for version in range(1, 6):  # each is as it was, and not as what was learned since
        assert model_sha256(run.load(version)[0]) == model_sha256(engine.copies[version])


def test_who_is_lost_takes_along_what_is_under_way(job: Job, undisturbed: str, tmp_path: Path) -> None:
    """The run goes back to the commit before, and tells of the loss once it is committed."""
    engine = learned(job, tmp_path / "run", {2: WorkerLost("replica 0 died; nothing"), 3: WorkerLost("again; nothing")})
    assert engine.there == [[], [], [1], [1], [1], [1, 2], [1, 2], [1, 2], [1, 2, 3]]
    run = RunDirectory.open(tmp_path / "run")
    assert model_sha256(run.load(5)[0]) == undisturbed
    check(run.table("ledger"))
    assert count(run.table("ledger")) == 470
    told = run.table("events")
    assert told["what"].to_pylist() == ["replica 0 died", "again"]


def test_an_error_of_the_job_lets_the_commit_end(job: Job, undisturbed: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="a wrong job"):
        learned(job, tmp_path / "run", {3: JobError("a wrong job")})
    assert RunDirectory.open(tmp_path / "run").latest() == 3
    learned(job, tmp_path / "run")
    assert model_sha256(RunDirectory.open(tmp_path / "run").load()[0]) == undisturbed


def test_a_full_disk_ends_the_run_after_the_commit_before(
    job: Job, undisturbed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = RunDirectory.commit

    def full(self: RunDirectory, *arguments: Any, **options: Any) -> int:
        if self.next_version() == 3:
            raise StorageError("no space left")
        return commit(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "commit", full)
        with pytest.raises(StorageError, match="no space left"):
            learned(job, tmp_path / "run")
    assert RunDirectory.open(tmp_path / "run").latest() == 2
    learned(job, tmp_path / "run")
    assert model_sha256(RunDirectory.open(tmp_path / "run").load()[0]) == undisturbed
