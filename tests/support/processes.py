"""`incr` as a process of its own: begun, waited for, and told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from incr_core.errors import RunDirectoryError

__all__ = ["INCR", "begin", "descendants", "kill_all_of", "trainer", "wait_until"]

INCR = (sys.executable, "-m", "incr_core.commands.cli")


def begin(arguments: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """`incr ARGUMENTS`. options: as `subprocess.Popen` has them."""
    return subprocess.Popen([*INCR, *arguments], **options)


@contextmanager
def trainer(job: Path, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`incr run --follow`, which is told to end afterwards, and has to end well unless it was killed."""
    process = begin(["run", str(job), "--out", str(out), "--follow", "--quiet"])
    try:
        yield process
    finally:
        process.terminate()
        ended = process.wait()
    assert ended in (0, -signal.SIGKILL)


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[Any] | None = None) -> None:
    """However long it takes, while the process goes on. Nothing holds of a run that has not begun."""
    while True:
        with suppress(RunDirectoryError):
            if holds():
                return
        assert process is None or process.poll() is None, "the process has ended"
        time.sleep(0.02)


def kill_all_of(process: subprocess.Popen[Any]) -> None:
    """Kill a process, and all below it."""
    for pid in [process.pid, *descendants(process.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> dict[int, str]:
    """The processes below one, and their command lines."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, ahead = dict[int, str](), [pid]
    while ahead:
        above = ahead.pop()
        for child, parent in parents.items():
            if parent == above:
                ahead.append(child)
                try:
                    found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
                except OSError:
                    continue
    return found
