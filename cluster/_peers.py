"""The peers of a worker: meeting them, and waiting for them no longer than their generation lasts.

A generation is the time in which nobody is lost. The driver ends it in the store when it has noticed a loss, and
whoever waits for the lost one gives up.
"""

from __future__ import annotations

from concurrent.futures import Future, wait
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from cluster._heartbeat import WAITING, Heartbeat
from incr_core.errors import EngineError

__all__ = ["Peers", "ended_key"]

T = TypeVar("T")

LOOK = timedelta(seconds=0.2)
"""How long to wait for a peer before asking whether the generation has ended."""


def ended_key(generation: int) -> str:
    """The key of the store that is there once a generation has ended."""
    return f"ended/{generation}"


class Peers:
    """Those whom a worker exchanges with.

    store: a connection of the thread that works. heartbeat: tells others that this worker waits. generation: the one
    that lasts.

    >>> from torch.distributed import HashStore
    >>> peers = Peers(HashStore(), Heartbeat(HashStore(), "alive/0", every=60.0))
    >>> peers.meet("to join", 1)
    """

    def __init__(self, store: Store, heartbeat: Heartbeat, generation: int = 0) -> None:
        self.store, self.generation = store, generation
        self._heartbeat = heartbeat

    def meet(self, what: str, count: int) -> None:
        """Wait until `count` workers have come to this point, each once. EngineError where the generation ends before.

        Each tells the store once that it is there, and the last one that all are: with more workers it costs each the
        same, and the store as much more as there are more of them.
        """
        place = f"met/{self.generation}/{what}"
        if self.store.add(place, 1) == count:
            self.store.set(f"{place}/all", "")
        with self._heartbeat.doing(WAITING):
            while True:
                try:
                    self.store.wait([f"{place}/all"], LOOK)
                    return
                except dist.DistStoreError:  # not yet
                    self._go_on()

    def wait(self, work: Any) -> None:
        """Wait for an exchange, torch's `Work`. EngineError where a peer is gone, or the generation ends before."""
        with self._heartbeat.doing(WAITING):
            while True:
                over = work.is_completed()  # asked before: it may end just when the time to wait for it does
                try:
                    work.wait(LOOK)
                    return
                except RuntimeError as error:  # of time, or of a connection
                    if over:
                        raise EngineError(f"the connection to a peer is lost: {str(error).splitlines()[0]}") from error
                    self._go_on()

    def result(self, future: Future[T]) -> T:
        """What a thread of this process gets from a peer. EngineError where the generation ends before."""
        with self._heartbeat.doing(WAITING):
            while True:
                done, _ = wait([future], LOOK.total_seconds())
                if done:
                    return future.result()
                self._go_on()

    def _go_on(self) -> None:
        if self.store.check([ended_key(self.generation)]):
            raise EngineError(f"generation {self.generation} has ended while waiting for peers")
