"""Lending of remembered rows between workers: offered when an increment begins, and fetched by a thread.

The rows are transferred as rows of readers are (`_peer_transfer`): through memory on one host, over a socket between
two. Unlike rows of the stream, they exist only at the lender. If they do not arrive, the lender counts as lost and the
generation ends.
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
"""Seconds between repeated requests to a lender that does not answer in time: its host may be busy."""


class PeerLending:
    """Lends rows of a worker to the workers that hold the same shard of other replicas, and borrows theirs.

    Both sides number the loans that begin in a generation. Equal numbers therefore mean the same loan, and data from an
    earlier generation is never taken for it.

    Args:
        turns: Transfers data on request (`PeerTurns`, unbounded).
        peers: Peers to wait with.
    """

    def __init__(self, turns: PeerTurns, peers: Peers, rank: Rank) -> None:
        self.bytes_sent = 0
        self.seconds_waited = 0.0
        self._turns, self._peers = turns, peers
        self._fetching: list[Future[list[Weights]]] = []
        self._begin_generation()
        self.among(rank)

    def among(self, rank: Rank) -> None:
        """Take the rank of a worker."""
        self._rank = rank
        self._turns.among(rank.number, rank.replicas * rank.shards)

    def begin(self) -> None:
        """Begin a generation of loans. Earlier loans are no longer requested."""
        for one in self._fetching:
            one.cancel()
        if self._generation != self._peers.generation:
            self.close()  # it may still wait for a lost worker
            self._begin_generation()
        self._begun += 1
        self._turns.begin()
        self._turns.reach(self._item(0, 0))

    def lend(self, taker: int, piece: int, rows: Weights) -> None:
        """Offer these columns to a replica, as the given piece of the rows that it borrows."""
        self._turns.offer(self._item(piece, taker), Transfer(dict(rows)), 1)
        self.bytes_sent += FlatLayout.of(rows).nbytes

    def borrow(self, pieces: Sequence[Sequence[int]]) -> list[Callable[[], list[Weights]]]:
        """Begin to fetch pieces. Each waits for its parts in order; `pieces` names the replicas that lend a part."""
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
        """Stop all requests."""
        self._over.set()
        self._thread.shutdown(wait=False)

    def _item(self, piece: int, taker: int) -> Item:
        return self._generation, self._begun, piece, taker

    def _fetch(self, item: Item, givers: Sequence[int], over: threading.Event) -> list[Weights]:
        return [self._asked(item, giver, over).tensors for giver in givers]

    def _asked(self, item: Item, giver: int, over: threading.Event) -> Transfer:
        """Return the part that a replica lends. While it waits, it checks whether the generation has ended."""
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
