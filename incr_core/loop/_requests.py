"""Requests reach a run that waits for data, as a signal would: another host can send none."""

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
"""Seconds between looks at what others ask."""


@contextmanager
def woken_by_requests(directory: Path, stop: threading.Event, *, for_changes: bool) -> Iterator[None]:
    """Inside, a request to stop in a run directory sets `stop`, also while the run waits.

    A request for a change only ends the waiting, where it is to (`for_changes`).

    Within `set_by_signals`: the main thread is woken by a signal to this process. A run in another thread cannot be
    woken; it sees `stop`, and changes, after the increment at hand.
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
