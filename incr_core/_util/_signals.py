"""Interrupt: a run that is asked to stop ends after the increment at hand, or while it waits for one, with a commit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["WAKE", "Stopped", "set_by_signals", "waiting"]

WAKE = signal.SIGUSR1
"""The signal that ends what waits, and asks for nothing else."""


class Stopped(Exception):
    """Asked to stop while waiting for what may never come."""


_asked: threading.Event | None = None  # what signals set
_waiting = False  # whether the main thread waits


@contextmanager
def set_by_signals(stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM sets `stop`; a Ctrl-C after that raises KeyboardInterrupt at once.

    A SIGTERM after that says nothing new: who stops a job, as `ray job stop` does, sends one to each of its processes,
    which pass them on. `WAKE` only ends what waits. Python tells signals to the main thread only: in any other, nothing
    is set.

    >>> with set_by_signals(stop := threading.Event()):
    ...     signal.raise_signal(signal.SIGTERM)
    ...     signal.raise_signal(signal.SIGTERM)
    >>> stop.is_set()
    True
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        global _waiting
        if stop.is_set():
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        stop.set()
        if _waiting:
            # Here, and not left to whoever waits: in its last moment it could not say so any more.
            _waiting = False
            raise Stopped

    def on_wake(number: int, frame: FrameType | None) -> None:
        global _waiting
        if _waiting:
            _waiting = False
            raise Stopped

    handlers = {signal.SIGINT: on_signal, signal.SIGTERM: on_signal, WAKE: on_wake}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    outer, _asked = _asked, stop
    try:
        yield
    finally:
        _asked = outer
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def waiting() -> Iterator[None]:
    """What waits here, and has changed nothing yet, is given up by a signal: it raises `Stopped`.

    >>> with set_by_signals(threading.Event()), waiting():
    ...     signal.raise_signal(signal.SIGTERM)
    Traceback (most recent call last):
    ...
    incr_core._util._signals.Stopped
    """
    global _waiting
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _waiting = True
    try:
        if _asked is not None and _asked.is_set():  # just before
            raise Stopped
        yield
    finally:
        _waiting = False
