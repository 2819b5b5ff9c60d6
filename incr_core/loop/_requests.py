"""Requests that wake a run waiting for data, for other hosts, which cannot send signals."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from incr_core._util import WAKE
from incr_core.registry import CHANGE, STOP, asked

__all__ = ["woken_by_requests"]

LOOK = 1.0
"""Seconds between checks for requests."""


@contextmanager
def woken_by_requests(directory: Path, stop: threading.Event, *, for_changes: bool) -> Iterator[None]:
    """Set `stop` when a request to stop appears in a run directory, even while the run waits.

    A request for a change only ends the waiting, if `for_changes` is set.

    Must be used inside `set_by_signals`: a signal to this process wakes the main thread. A run in another thread cannot
    be woken; it sees `stop`, and changes, after the current increment.
    """
    ended, in_main = threading.Event(), threading.current_thread() is threading.main_thread()

    def look() -> None:
        while not ended.wait(LOOK):
            if asked(directory, STOP):
                if in_main:
                    os.kill(os.getpid(), signal.SIGTERM)
                else:
                    stop.set()
                return
            if for_changes and in_main and asked(directory, CHANGE):
                os.kill(os.getpid(), WAKE)

    watcher = threading.Thread(target=look, name="requests", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
