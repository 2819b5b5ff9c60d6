"""Run a command's work in a child process, so that its end is noticed and its output does not reach stdout.

Ray's library ends its process without a message when its daemon on this host is gone, and prints to standard output.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

__all__ = ["supervised"]

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process receives when its parent ends."""


def supervised(work: Callable[[], int]) -> int | None:
    """Do `work` in a child process whose standard output is this process's standard error.

    SIGINT and SIGTERM are passed on to the child. The child is also asked to stop when this process is killed. Call
    this before any thread is started.

    Returns:
        The exit code of `work`; None if the child ended without one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        _be_child()
        code = work()
        os.write(writes, str(code).encode())
        sys.exit(code)  # not os._exit: Ray cleans up at the interpreter's exit
    os.close(writes)

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(child, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with os.fdopen(reads, "rb") as told:
            code_told = told.read()
        os.waitpid(child, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return int(code_told) if code_told else None


def _be_child() -> None:
    os.dup2(2, 1)
    os.setpgid(0, 0)  # Ctrl-C in a terminal reaches a whole process group; here it is passed on once
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
