"""Who takes part in a run: how many replicas it has now, and the log of how many it had from which increment on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.place import Place
from incr_core.job import Replicas

__all__ = ["Membership"]


class Membership:
    """How many replicas there are, in a run that wants so many.

    A run's bits are a function of its job, its rows and this log (law 9): given as `cluster.replicas`, it makes the
    same changes again, whatever the cluster has.

    wanted: what the job says. shards: of each replica. count: replicas now. next: the number of the next increment.
    log: first increments and numbers.

    >>> members = Membership(Replicas.of("2..3"), shards=1)
    >>> members.begin(None, 2); members.received(0); members.next
    1
    >>> state = members.saved(); state["log"]
    [[0, 2]]
    >>> members.begin(state, 3); members.received(1); members.log, members.news
    ([[0, 2], [1, 3]], [('members', 'from 2 to 3 replicas', 'what they remember was dealt anew')])
    """

    def __init__(self, wanted: Replicas, shards: int) -> None:
        self.wanted, self.shards = wanted, shards
        self.count = 0
        self.next = 0
        self.log: list[list[int]] = []
        self.news: list[tuple[str, str, str]] = []
        self.before: int | None = None
        self._ever = 0
        self._settled = False

    @property
    def places(self) -> list[Place]:
        """All workers' places, by replica."""
        return [
            Place(replica, self.count, shard, self.shards)
            for replica in range(self.count)
            for shard in range(self.shards)
        ]

    @property
    def inherits(self) -> bool:
        """Whether there were more or fewer at the last commit."""
        return self.before not in (None, self.count)

    @property
    def retired(self) -> list[str]:
        """The names of replicas that took part, and that neither this commit nor the last one has any more."""
        kept = self.count if self.before is None else max(self.before, self.count)
        return [Place(replica, self._ever, 0, 1).participant for replica in range(kept, self._ever)]

    def begin(self, state: Mapping[str, Any] | None, count: int) -> None:
        """Go on with so many from a commit whose state this is; None: from the beginning."""
        state = state or {}
        self.before = state.get("replicas")
        self.next = state.get("next", 0)
        self.log = [list(entry) for entry in state.get("log", ())]
        self._ever = max([count, *(entry[1] for entry in self.log)])
        self.count, self.news, self._settled = count, [], False

    def received(self, increment: int) -> None:
        """An increment is about to be learned by those who are there."""
        self.next = increment + 1
        if self._settled:
            return
        self._settled = True
        if self.log and self.log[-1][1] == self.count:
            return
        if self.log:
            change = f"from {self.log[-1][1]} to {self.count} replicas"
            self.news.append(("members", change, "what they remember was dealt anew"))
        self.log.append([increment, self.count])

    def saved(self) -> dict[str, Any]:
        """What a commit keeps of it."""
        state = {"replicas": self.count, "next": self.next, "log": [list(entry) for entry in self.log]}
        self.before, self.news = self.count, []
        return state
