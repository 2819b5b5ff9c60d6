"""Changes to a run: made at once if no process writes it, else by a request that the writing process carries out."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import uuid4

from incr_core.errors import RunDirectoryError
from incr_core.loop import carry_out
from incr_core.registry import CHANGE, RunDirectory, answer, answered, ask, request
from incr_core.storage import copy_of

__all__ = ["change"]

LOOK = 0.1
"""Seconds between checks whether the change was made."""


def change(
    path: str | Path, action: str, version: int | None = None, *, drop: bool = False, timeout: float = 600.0
) -> str:
    """Carry out one of `loop.ACTIONS` on a run; return a sentence about the change.

    A process that learns carries it out after the current increment, or at once while it waits for data on the engine
    "local".

    Raises:
        VersionError: The version is not available.
        RunDirectoryError: Nothing was done within `timeout` seconds. The request is then withdrawn.
    """
    directory = RunDirectory.open(path)
    if version is not None:
        directory.require(version)
    if copy_of(directory.path) is not None:  # the writing process reads its own working copy
        with directory.alone():
            return carry_out(directory, {"action": action, "version": version, "drop": drop})
    told = {"action": action, "version": version, "drop": drop}
    token, until = uuid4().hex, time.monotonic() + timeout
    try:
        while (holder := directory.holder()) is not None:
            expected = f"{path}: expected the run ({holder}) to {action} within {timeout:g} s"
            wait = partial(_wait, directory, holder, until, expected)
            if not _mine(directory.path, token):
                wait(lambda: request(directory.path, CHANGE) is None)  # one at a time
                if request(directory.path, CHANGE) is not None:
                    continue
                ask(directory.path, CHANGE, token=token, **told)
            wait(lambda: answered(directory.path, token) is not None)
            outcome = answered(directory.path, token)
            if outcome is not None:
                if "error" in outcome:
                    raise RunDirectoryError(str(outcome["error"]))
                return str(outcome["done"])
    finally:  # a request is not carried out after the wait for it has ended
        if _mine(directory.path, token):
            answer(directory.path, CHANGE)
    with directory.alone():
        return carry_out(directory, told)


def _wait(directory: RunDirectory, holder: str, until: float, expected: str, done: Callable[[], bool]) -> None:
    """Wait until the change is made, another process holds the run, or none does."""
    while not done() and directory.holder() == holder:
        if time.monotonic() > until:
            raise RunDirectoryError(
                f"{expected}, got no answer; it looks after each increment; the request is taken back"
            )
        time.sleep(LOOK)


def _mine(directory: Path, token: str) -> bool:
    """Return whether the stored request is this one."""
    found = request(directory, CHANGE)
    return found is not None and found.get("token") == token
