"""A commit in the background: its data is copied, and a thread writes it while the loop continues."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from incr_core.engines import Saving

__all__ = ["Flight"]


class Flight:
    """The commit of a version, in its own thread.

    Args:
        version: The version.
        saving: The state that participants save for it.
        finish: Makes the version visible once all is on disk; its argument returns whether the commit was abandoned.

    >>> flight = Flight(3, Saving(lambda given_up: {}, state={}, swept=[], extra_state={}), lambda given_up: None)
    >>> flight.result(), flight.version, flight.landed, flight.made
    (None, 3, True, True)
    """

    def __init__(self, version: int, saving: Saving, finish: Callable[[Callable[[], bool]], None]) -> None:
        self.version, self.saving = version, saving
        self._given_up = threading.Event()
        self._future: Future[None] = Future()
        # The interpreter does not wait for a daemon thread at exit: the owner must wait for the flight or abandon it.
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
        """Whether it has ended, successfully or not."""
        return self._future.done()

    @property
    def made(self) -> bool:
        """Whether the version is there."""
        return self._future.done() and self._future.exception() is None

    def give_up(self) -> None:
        """Abandon it; it ends without a commit, unless all is on disk already."""
        self._given_up.set()

    def result(self) -> None:
        """Wait for its end, and raise its error."""
        self._future.result()
