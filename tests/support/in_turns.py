"""Readers of one stream who take turns, in one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from cluster._peer_transfer import PeerTurns
from incr_core.data.timeline import Increment, Stream

__all__ = ["gone_through", "readers"]


@contextmanager
def readers(count: int, patience: float = 20.0) -> Iterator[list[PeerTurns]]:
    """The turns of so many readers."""
    store = HashStore()
    turns = [PeerTurns(index, count, "127.0.0.1", lambda: store, patience) for index in range(count)]
    try:
        yield turns
    finally:
        for one in turns:
            one.close()


def gone_through(streams: list[Stream], steps: int | None = None, **how: object) -> list[list[Increment]]:
    """The increments of all streams, gone through in step, as replicas do; at most so many `steps`.

    how: of `Stream.increments`.
    """
    found: list[list[Increment]] = [[] for _ in streams]
    faults: list[Exception] = []
    step = threading.Barrier(len(streams))

    def go(place: int) -> None:
        increments = streams[place].increments(**how)  # type: ignore[arg-type]
        try:
            for increment in increments:
                found[place].append(increment)
                step.wait(600)
                if len(found[place]) == steps:
                    break
        except Exception as fault:
            faults.append(fault)
        finally:
            increments.close()

    threads = [threading.Thread(target=go, args=(place,)) for place in range(len(streams))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return found
