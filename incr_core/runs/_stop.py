"""Request to a running process, on any host, to commit and end."""

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
"""Seconds between checks whether the run has ended."""


def stop(path: str | Path, timeout: float = 600.0) -> int | None:
    """End a run, or its current baseline, after an increment, with a commit; return the run's version.

    A process on this host receives a signal too, because it may wait for data. A detached run ends even while its
    process is being replaced.

    Raises:
        RunDirectoryError: The run is not being learned, or it has not ended within `timeout` seconds. In the second
            case the request remains.
    """
    directory = RunDirectory.open(path)
    found = going_on(directory.path)
    holder = found[1] if found is not None else _kept(directory.path)
    if holder is None:
        raise RunDirectoryError(f"{path}: expected a run that is being learned, got none; there is nothing to stop")
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
                f"{path}: expected the run ({holder}) to end within {timeout:g} s, but it has not; it ends after "
                "the current increment, or when the next one arrives"
            )
        time.sleep(LOOK)
    for folder in asked_in:
        answer(folder, STOP)
    return RunDirectory.open(path).latest()


def _kept(directory: Path) -> str | None:
    """Place of a detached run that is being learned, whether or not it has a process now; None for other runs."""
    found = Detached.read(directory)
    return found.place if found is not None and found.goes_on else None
