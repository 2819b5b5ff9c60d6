"""Remembered rows, lent by workers to one another: offered when an increment begins, and fetched by a thread.

They go the way of rows that were read (`_peer_transfer`): through memory on one host, over a socket between two.
Other than those, nobody can make them anew: where they do not come, the peer is lost, and the generation ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from cluster._peer_transfer import PeerTurns
from cluster._peers import Peers
from cluster._rank import Rank
from incr_core.data.timeline import Item, Transfer
from incr_core.errors import EngineError
from incr_core.numerics import FlatLayout
from incr_core.update import Weights

__all__ = ["PeerLending"]

ATTEMPTS = 10
"""How often to ask one who does not answer in time: its host may have no time for it."""


class PeerLending:
    """The lending of a worker to those that hold the same shard of other replicas.

    turns: hands things to one who asks (`PeerTurns`, unbounded). peers: with whom it waits.

    Both sides count what is begun in a generation: so they mean the same, and what an ended generation has left is
    never taken for it.
    """

    def __init__(self, turns: PeerTurns, peers: Peers, rank: Rank) -> None:
        self.bytes_sent = 0
        self.seconds_waited = 0.0
        self._turns, self._peers = turns, peers
        self._fetching: list[Future[list[Weights]]] = []
        self._begin_generation()
        self.among(rank)

    def among(self, rank: Rank) -> None:
        """From now on this is the worker of that rank."""
        self._rank = rank
        self._turns.among(rank.number, rank.replicas * rank.shards)

    def begin(self) -> None:
        """All begin to lend anew: what was lent before is not asked for any more."""
        for one in self._fetching:
            one.cancel()
        if self._generation != self._peers.generation:
            self.close()  # it may still ask who is lost
            self._begin_generation()
        self._begun += 1
        self._turns.begin()
        self._turns.reach(self._item(0, 0))

    def lend(self, taker: int, piece: int, rows: Weights) -> None:
        """Let a replica have these columns, as that piece of what it borrows."""
        self._turns.offer(self._item(piece, taker), Transfer(dict(rows)), 1)
        self.bytes_sent += FlatLayout.of(rows).nbytes

    def borrow(self, pieces: Sequence[Sequence[int]]) -> list[Callable[[], list[Weights]]]:
        """Begin to fetch pieces, of which each replica in `pieces` lends a part; each waits for its parts, in order."""
        own = self._rank.replica
        items = [self._item(piece, own) for piece in range(len(pieces))]
        self._fetching = [
            self._thread.submit(self._fetch, item, givers, self._over)
            for item, givers in zip(items, pieces, strict=True)
        ]
        return [partial(self._come, one) for one in self._fetching]

    def _begin_generation(self) -> None:
        self._generation, self._begun = self._peers.generation, 0
        self._over = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="borrowing")

    def close(self) -> None:
        """Ask for nothing any more."""
        self._over.set()
        self._thread.shutdown(wait=False)

    def _item(self, piece: int, taker: int) -> Item:
        return self._generation, self._begun, piece, taker

    def _fetch(self, item: Item, givers: Sequence[int], over: threading.Event) -> list[Weights]:
        return [self._asked(item, giver, over).tensors for giver in givers]

    def _asked(self, item: Item, giver: int, over: threading.Event) -> Transfer:
        """What a replica lends. Whoever waits for it meanwhile looks whether the generation lasts."""
        for _ in range(ATTEMPTS):
            handed = self._turns.ask(item, giver * self._rank.shards + self._rank.shard)
            if handed is not None:
                return handed
            if over.wait(1.0) or item[:2] != (self._generation, self._begun):
                break
        raise EngineError(f"what replica {giver} remembers does not come")

    def _come(self, fetching: Future[list[Weights]]) -> list[Weights]:
        begun = time.perf_counter()
        found = self._peers.result(fetching)
        self.seconds_waited += time.perf_counter() - begun
        return found
