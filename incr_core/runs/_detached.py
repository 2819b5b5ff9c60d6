"""Detached runs, whose loop is in a process that an engine keeps and restarts after a loss."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from incr_core.engines import engine_named
from incr_core.errors import EngineError, IncrError, JobError, RunDirectoryError, WorkerLost
from incr_core.job import Job
from incr_core.loop import Progress
from incr_core.registry import STOP, Detached, RunDirectory, asked, is_run, write_progress
from incr_core.runs._learn import OnProgress, learn
from incr_core.runs._run import Run
from incr_core.storage import Lock, is_address

__all__ = ["detach", "go_on"]

log = logging.getLogger("incr")

LOOK = 0.1
"""Seconds between checks whether a loop has begun."""

EVERY = 0.5
"""Seconds between reports of progress."""

LEASE = 120.0
"""Seconds in which a file system releases the lock of a process whose host is gone."""


def detach(job: Job, out: str | Path, on: str) -> Detached:
    """Start the loop of a run in a process that outlives this one; return its record once it has the run.

    The loop may already have ended by then.

    Raises:
        JobError: The engine keeps no processes, or `out` is an address.
        RunDirectoryError: The run is already being learned.
    """
    if is_address(out):
        raise JobError(
            f"--detach: expected a folder that all nodes share, got the address {out}; submit the command instead, so "
            "that it stays on the cluster (ray job submit ... incr run ... --out ADDRESS)"
        )
    path = Path(out).absolute()
    if (holder := Lock(path / ".lock").holder()) is not None:
        raise RunDirectoryError(
            f"{out}: another process ({holder}) is writing this run; follow it (incr attach), stop it (incr stop), or "
            "choose another --out"
        )
    token = uuid4().hex
    engine_named(on).detach(job, path, token)
    while True:
        found = Detached.read(path)
        if found is None or found.token != token:
            raise RunDirectoryError(f"{out}: expected to hold the run that was started, got another that has taken it")
        if not found.goes_on or (found.starts and is_run(path)):
            return found
        time.sleep(LOOK)


def go_on(job: Job, path: Path, on: str, token: str) -> bool:
    """Learn from the last commit, if there is one, in the process of a detached loop.

    An error that is the job's own fault ends the run. After an error of the engine, the next process may succeed.

    Returns:
        Whether the run has ended. Otherwise another process must be started.
    """
    found = Detached.read(path)
    if found is None or found.token != token or not found.goes_on:
        return True  # another process has taken the run, or the run has ended
    _await_lease(path)
    here = found.in_this_process(RunDirectory.open(path).latest() if is_run(path) else None)
    here.write(path)
    if found.starts and asked(path, STOP):
        replace(here, ended="stopped").write(path)
        return True
    if here.in_vain > job.cluster.max_failures:
        cause = f", the last one by: {found.error}" if found.error else ""
        lost = f"the process of the loop was lost {here.in_vain} times in a row without a commit{cause}"
        stands = "nothing is committed yet" if here.version is None else f"version {here.version} is intact"
        replace(here, ended="failed", exit_code=1, error=f"{here.place}: {lost}; {stands}").write(path)
        return True
    lost = f"{on}: the process of the loop, pid {found.pid} on {found.host}, was lost" if found.starts else ""
    done = _learned(job, path, on, here, lost)
    done.write(path)
    return not done.goes_on


def _await_lease(path: Path) -> None:
    """Wait while a former process of this loop holds the lock. If its host is gone, the release takes a while."""
    lock, until = Lock(path / ".lock"), time.monotonic() + LEASE
    while lock.holder() is not None and time.monotonic() < until:
        time.sleep(LOOK)


def _learned(job: Job, path: Path, on: str, here: Detached, lost: str) -> Detached:
    """Learn; return the record of the outcome. `lost` describes the process that held the run before."""
    try:
        with _telling(path) as on_progress:
            learn(job, path, on, on_progress, lost)
        if Run(path).summary.finished:
            return replace(here, ended="finished", error="")
        error = "it was asked to end"
    except KeyboardInterrupt:
        error = "it was asked to end at once"
    except EngineError as gone:
        if isinstance(gone, WorkerLost):  # as often as the job allows
            return replace(here, ended="failed", exit_code=gone.exit_code, error=str(gone))
        error = str(gone)
    except IncrError as fault:
        return replace(here, ended="failed", exit_code=fault.exit_code, error=str(fault))
    except Exception as fault:
        log.exception("detached: the run has failed")
        return replace(here, ended="failed", exit_code=1, error=_last_line(fault))
    # A user asked for it, or the host shuts down: the run then continues elsewhere.
    return replace(here, ended="stopped" if asked(path, STOP) else "", error=error)


class _Told(logging.StreamHandler[Any]):
    """Write the progress of the loop, and its log, to the run directory."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._next = path, 0.0
        self._said: list[str] = []
        self._runs: dict[str, dict[str, Any]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        self._said = [*self._said[-9:], record.getMessage()]
        write_progress(self._path, {"said": self._said, "runs": self._runs})

    def on_progress(self, name: str, done: Progress) -> None:
        self._runs[name] = asdict(done)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            write_progress(self._path, {"said": self._said, "runs": self._runs})


@contextmanager
def _telling(path: Path) -> Iterator[OnProgress]:
    told = _Told(path)
    log.addHandler(told)
    try:
        yield told.on_progress
    finally:
        log.removeHandler(told)


def _last_line(fault: BaseException) -> str:
    """An error of any code as one line."""
    return traceback.format_exception_only(fault)[-1].strip().splitlines()[-1]
