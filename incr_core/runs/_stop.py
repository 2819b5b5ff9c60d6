"""Ask a run that goes on, in whatever process on whatever host, to commit and end."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from incr_core.errors import RunDirectoryError
from incr_core.registry import STOP, Detached, RunDirectory, answer, ask
from incr_core.runs._baseline_runs import going_on
from incr_core.storage import lock_of

__all__ = ["stop"]

LOOK = 0.2
"""Seconds between looks at whether the run has ended."""


def stop(path: str | Path, timeout: float = 600.0) -> int | None:
    """Let a run, or its baseline at hand, end after an increment, with a commit; returns the run's version.

    A run on this host gets a signal too, since it may wait for data. A detached one ends even while its process is
    being replaced. Raises RunDirectoryError where no run is going, or where it has not ended within `timeout` seconds:
    then the request stands.
    """
    directory = RunDirectory.open(path)
    found = going_on(directory.path)
    holder = found[1] if found is not None else _kept(directory.path)
    if holder is None:
        raise RunDirectoryError(f"{path}: expected a run that is going on, got none; there is nothing to stop")
    learned = directory.path if found is None else found[0]
    asked_in = {directory.path, learned}
    for folder in asked_in:
        ask(folder, STOP)
    pid = lock_of(learned).holder_here()
    if pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + timeout
    while (_kept(directory.path) or going_on(directory.path)) is not None:
        if time.monotonic() > until:
            raise RunDirectoryError(
                f"{path}: expected the run ({holder}) to end within {timeout:g} s, got none of that yet; it ends after "
                "the increment at hand, or when the next one comes"
            )
        time.sleep(LOOK)
    for folder in asked_in:
        answer(folder, STOP)
    return RunDirectory.open(path).latest()


def _kept(directory: Path) -> str | None:
    """Where a detached run goes on, whether or not it has a process at the moment; None for any other."""
    found = Detached.read(directory)
    return found.place if found is not None and found.goes_on else None
