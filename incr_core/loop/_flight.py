"""A commit under way: what it needs is copied, and it is written in a thread while the loop goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from incr_core.engines import Saving

__all__ = ["Flight"]


class Flight:
    """The commit of a version, in a thread of its own.

    saving: what participants save for it. finish: makes it visible once all is on the disk; asked now and then whether
    nobody wants it any more.

    >>> flight = Flight(3, Saving(lambda given_up: {}, state={}, swept=[], extra_state={}), lambda given_up: None)
    >>> flight.result(), flight.version, flight.landed, flight.made
    (None, 3, True, True)
    """

    def __init__(self, version: int, saving: Saving, finish: Callable[[Callable[[], bool]], None]) -> None:
        self.version, self.saving = version, saving
        self._given_up = threading.Event()
        self._future: Future[None] = Future()
        # Of a daemon the interpreter's end waits not: whoever ends must give the flight up, or wait for it.
        threading.Thread(target=self._fly, args=(finish,), name="incr-commit", daemon=True).start()

    def _fly(self, finish: Callable[[Callable[[], bool]], None]) -> None:
        try:
            finish(self._given_up.is_set)
        except BaseException as error:
            self._future.set_exception(error)
        else:
            self._future.set_result(None)

    @property
    def landed(self) -> bool:
        """Whether it is over, well or not."""
        return self._future.done()

    @property
    def made(self) -> bool:
        """Whether the version is there."""
        return self._future.done() and self._future.exception() is None

    def give_up(self) -> None:
        """Nobody wants it any more; it ends without a commit, unless all is on the disk already."""
        self._given_up.set()

    def result(self) -> None:
        """Wait until it is over; raises what it raised."""
        self._future.result()
