"""Run a command's work in a child process, so that whatever ends it can be told, and nothing of it reaches stdout.

Ray's own library ends the process that it is loaded in, without a word, when its daemon on this host is gone; and what
it has to say it prints to standard output.
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
"""prctl(2): which signal a process gets when its parent is gone."""


def supervised(work: Callable[[], int]) -> int | None:
    """The exit code of `work`, done in a child process whose standard output is our standard error.

    None where the child ended without one. SIGINT and SIGTERM are passed on to it. It is asked to stop, too,
    when this process is killed. To be called before any thread was started.
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
        sys.exit(code)  # not os._exit: Ray puts things right when it is left
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
    os.setpgid(0, 0)  # Ctrl-C in a terminal reaches a whole group: it is passed on, once
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
