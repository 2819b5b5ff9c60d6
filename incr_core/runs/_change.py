"""Change a run, whoever writes it: at once where nobody does, else through a request that its loop carries out."""

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
"""Seconds between looks at whether it was done."""


def change(
    path: str | Path, action: str, version: int | None = None, *, drop: bool = False, timeout: float = 600.0
) -> str:
    """Do one of `loop.ACTIONS` to a run, and say what was done.

    A process that learns does it after the increment at hand, or at once where it waits for data on the engine "local".
    Raises VersionError where the version cannot be had, RunDirectoryError where nothing was done within `timeout`
    seconds: then the request is taken back.
    """
    directory = RunDirectory.open(path)
    if version is not None:
        directory.require(version)
    if copy_of(directory.path) is not None:  # whoever writes it looks at a copy of its own
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
    finally:  # nobody is to do what is not waited for any more
        if _mine(directory.path, token):
            answer(directory.path, CHANGE)
    with directory.alone():
        return carry_out(directory, told)


def _wait(directory: RunDirectory, holder: str, until: float, expected: str, done: Callable[[], bool]) -> None:
    """Wait until it is done, or another process holds the run, or none does."""
    while not done() and directory.holder() == holder:
        if time.monotonic() > until:
            raise RunDirectoryError(
                f"{expected}, got no answer; it looks after each increment; the request is taken back"
            )
        time.sleep(LOOK)


def _mine(directory: Path, token: str) -> bool:
    """Whether the request that is there is this one."""
    found = request(directory, CHANGE)
    return found is not None and found.get("token") == token
