"""Prefetch: run an iterator ahead of its consumer, in a thread."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

__all__ = ["prefetch"]

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds to wait for a thread whose work nobody wants any more; a source may wait for its next rows for ever."""

_running: dict[threading.Thread, Callable[[], None]] = {}  # and how each is asked to stop


@atexit.register
def _stop_all() -> None:
    """Stop what runs ahead before Python ends: a thread that comes back from C++ later would abort the process."""
    for stop in list(_running.values()):
        stop()
    for thread in list(_running):
        thread.join(PATIENCE)


def prefetch(items: Iterator[T], depth: int = 2) -> Generator[T, None, None]:
    """Yield the items in order while a thread prepares up to `depth` more.

    An error of the iterator is raised here, after the items before it. The thread ends with the iterator, or when the
    consumer closes or drops this generator: after the item it is at, or with the process.

    >>> list(prefetch(iter(range(3))))
    [0, 1, 2]
    """
    ready: deque[T] = deque()
    failure: list[BaseException] = []
    change = threading.Condition()
    stopped = finished = False

    def work() -> None:
        nonlocal finished
        try:
            for item in items:
                with change:
                    ready.append(item)
                    change.notify_all()
                    change.wait_for(lambda: stopped or len(ready) < depth)
                    if stopped:
                        return
        except BaseException as error:  # whatever it is, the consumer must see it
            failure.append(error)
        finally:
            with change:
                finished = True
                change.notify_all()
            del _running[thread]

    def stop() -> None:
        nonlocal stopped
        with change:
            stopped = True
            change.notify_all()

    thread = threading.Thread(target=work, name="incr-prefetch", daemon=True)
    _running[thread] = stop
    thread.start()
    try:
        while True:
            with change:
                change.wait_for(lambda: ready or finished)
                if not ready:
                    break
                item = ready.popleft()
                change.notify_all()
            yield item
        if failure:
            raise failure[0]
    finally:
        stop()
        thread.join(PATIENCE)
