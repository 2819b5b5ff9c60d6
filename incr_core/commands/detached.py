"""`incr run --detach` and `incr attach`: start a run that continues by itself, and follow one to its end."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from incr_core._util import json_text
from incr_core.commands import STOPPED
from incr_core.commands._supervised import supervised
from incr_core.commands.progress import progress
from incr_core.commands.run import Command, out_of, tell
from incr_core.errors import EngineError, RunDirectoryError
from incr_core.job import Job
from incr_core.loop import Progress
from incr_core.registry import Detached, read_progress
from incr_core.runs import Run, detach
from incr_core.shown import shown
from incr_core.storage import Lock

__all__ = ["attach", "detach_apart", "detach_here"]

LOOK = 0.3
"""Seconds between checks of a run's progress."""

SLOW = 60.0
"""Seconds without any process after which a message is printed. Ray notices a lost node after half a minute."""

PATIENCE = 600.0
"""Seconds without any process after which the run counts as abandoned."""


def detach_here(options: argparse.Namespace) -> int:
    """Start the run in a process that outlives this one, and print where it runs. Return the exit code."""
    return _start(options) or _tell(options)


def detach_apart(options: argparse.Namespace, guarded: Callable[[Command, argparse.Namespace], int]) -> int:
    """Do the same with Ray in a separate process, so that its output does not reach stdout.

    Args:
        options: The command's options.
        guarded: Calls a command, prints its errors, and returns its exit code.
    """
    code = supervised(lambda: guarded(_start, options))
    if code is None:
        raise EngineError("--detach: the process that started the run was ended from outside; give the command again")
    return code or _tell(options)


def _start(options: argparse.Namespace) -> int:
    out = out_of(options)
    return _failure(detach(Job.written(options.job, options.set).resolved(out), out, options.on))


def _tell(options: argparse.Namespace) -> int:
    out = out_of(options)
    found = _held(out)
    if options.json:
        print(json_text({"directory": str(Path(out).absolute()), **asdict(found)}))
    elif not options.quiet:
        print(
            f"the run goes on by itself, {shown(found.place)}\n"
            f"  follow it:       incr attach {shown(out)}\n"
            f"  where it stands: incr status {shown(out)}\n"
            f"  end it:          incr stop {shown(out)}"
        )
    return 0


def attach(options: argparse.Namespace) -> int:
    """Show the progress of a detached run to its end. Return the exit code that `incr run` would have."""
    out = str(options.directory)
    try:
        found = _followed(out, options.quiet)
    except KeyboardInterrupt:
        print(f"incr: the run goes on; follow it again with: incr attach {shown(out)}", file=sys.stderr)
        return STOPPED
    if code := _failure(found):
        return code
    if found.ended == "stopped" and not Run(out).exists():
        print(
            "incr: stopped; committed versions are intact, and the same command continues from there", file=sys.stderr
        )
        return STOPPED
    return tell(out, options)


def _followed(out: str, quiet: bool) -> Detached:
    """Return the record of a detached run once it has ended."""
    found, path = _held(out), Path(out)
    if not found.goes_on:
        return found
    lock, seen, slow, said = Lock(path / ".lock"), time.monotonic(), False, list[str]()
    with progress(Run(path).job, quiet) as on_progress:
        while found.goes_on:
            if lock.holder() is not None:
                seen, slow = time.monotonic(), False
            elif time.monotonic() - seen > PATIENCE:
                raise EngineError(
                    f"{out}: expected a process to hold the run, {found.place}, got none for {PATIENCE:g} s; see "
                    "whether its Ray is there (ray status); the command that started it goes on from the last commit"
                )
            elif time.monotonic() - seen > SLOW and not slow:
                slow = True
                print(f"incr: waiting for Ray to start another process of the loop, {found.place}", file=sys.stderr)
            told = read_progress(path)
            for line in told.get("said", []):
                if line not in said:
                    said.append(line)
                    print(f"incr: {shown(line)}", file=sys.stderr)
            if on_progress is not None:
                for name, done in told.get("runs", {}).items():
                    value = math.nan if done["value"] is None else done["value"]
                    on_progress(name, Progress(**{**done, "value": value}))
            time.sleep(LOOK)
            found = _held(out)
    return found


def _held(out: str) -> Detached:
    """Return the record of a detached run."""
    found = Detached.read(Path(out))
    if found is None:
        raise RunDirectoryError(
            f"{out}: expected a run that was started with --detach, got none; `incr status` shows other runs"
        )
    return found


def _failure(found: Detached) -> int:
    """Return the exit code of a failed run and print its error; 0 for other runs."""
    if found.ended == "failed":
        print(f"incr: {shown(found.error)}", file=sys.stderr)
    return found.exit_code
