"""The peers of a worker: meeting them, and waiting for them until their generation ends.

A generation is a period in which no worker is lost. When the driver has detected a loss, it marks the end of the
generation in the store, and workers that wait for the lost one stop waiting.
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
"""Time to wait for a peer before checking whether the generation has ended."""


def ended_key(generation: int) -> str:
    """Key of the store that exists once a generation has ended."""
    return f"ended/{generation}"


class Peers:
    """The workers with which a worker exchanges data.

    Args:
        store: A connection of the working thread.
        heartbeat: Reports that this worker waits.
        generation: The current one.

    Example:
        >>> from torch.distributed import HashStore
        >>> peers = Peers(HashStore(), Heartbeat(HashStore(), "alive/0", every=60.0))
        >>> peers.meet("to join", 1)
    """

    def __init__(self, store: Store, heartbeat: Heartbeat, generation: int = 0) -> None:
        self.store, self.generation = store, generation
        self._heartbeat = heartbeat

    def meet(self, what: str, count: int) -> None:
        """Wait until `count` workers have reached this point, each once. Raises EngineError if the generation ends
        first.

        Each worker reports once to the store, and the last one reports that all are there. The cost for a worker is
        constant, and the cost for the store is linear in the number of workers.
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
        """Wait for an exchange, torch's `Work`. Raises EngineError if a peer is gone or the generation ends first."""
        with self._heartbeat.doing(WAITING):
            while True:
                over = work.is_completed()  # read before the wait: the generation may end just when the wait times out
                try:
                    work.wait(LOOK)
                    return
                except RuntimeError as error:  # of a timeout or a connection
                    if over:
                        raise EngineError(f"the connection to a peer is lost: {str(error).splitlines()[0]}") from error
                    self._go_on()

    def result(self, future: Future[T]) -> T:
        """Return a value that a thread of this process gets from a peer. Raises EngineError if the generation ends."""
        with self._heartbeat.doing(WAITING):
            while True:
                done, _ = wait([future], LOOK.total_seconds())
                if done:
                    return future.result()
                self._go_on()

    def _go_on(self) -> None:
        if self.store.check([ended_key(self.generation)]):
            raise EngineError(f"generation {self.generation} has ended while waiting for peers")
