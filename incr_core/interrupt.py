"""Interrupt: a run that is asked to stop ends after the increment at hand, with a commit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["set_by_signals"]


@contextmanager
def set_by_signals(stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM sets `stop`; the second one raises KeyboardInterrupt at once.

    Python tells signals to the main thread only: in any other, nothing is set.

    >>> with set_by_signals(stop := threading.Event()):
    ...     signal.raise_signal(signal.SIGTERM)
    >>> stop.is_set()
    True
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
