"""Who takes part in a run: how many replicas and shards it has now, and the log of how many replicas it had from which
increment on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster._rank import Rank
from incr_core.job import Replicas

__all__ = ["Membership"]


class Membership:
    """How many replicas there are, in a run that wants so many.

    A run's bits are a function of its job, its rows and this log (law 9): given as `cluster.replicas`, it makes the
    same changes again, whatever the cluster has.

    wanted: what the job says. shards: of each replica. count: replicas now; before: at the last commit, if there was
    one; shards_before: of each of them. next: the number of the next increment. log: first increments and numbers.

    >>> members = Membership(Replicas.of("2..3"), shards=1)
    >>> members.begin(None); members.count = 2; members.received(0); members.next
    1
    >>> state = members.saved(); state["log"]
    [[0, 2]]
    >>> members.begin(state); members.count = 3; members.received(1); members.log, members.news
    ([[0, 2], [1, 3]], [('members', 'from 2 to 3 replicas', 'what they remember was dealt anew')])
    """

    def __init__(self, wanted: Replicas, shards: int) -> None:
        self.wanted, self.shards = wanted, shards
        self.count = 0
        self.before: int | None = None
        self.shards_before = shards
        self.next = 0
        self.log: list[list[int]] = []
        self.news: list[tuple[str, str, str]] = []

    @property
    def ranks(self) -> list[Rank]:
        """All workers' ranks, by replica."""
        return [
            Rank(replica, self.count, shard, self.shards)
            for replica in range(self.count)
            for shard in range(self.shards)
        ]

    @property
    def cuts(self) -> bool:
        """Whether the model was held by more or fewer shards at the last commit."""
        return self.shards_before != self.shards

    @property
    def inherits(self) -> bool:
        """Whether there were more or fewer at the last commit."""
        return self.before not in (None, self.count)

    @property
    def retired(self) -> list[str]:
        """The names of replicas that took part, and that neither this commit nor the last one has any more."""
        kept, most = max(self.before or 0, self.count), max((count for _, count in self.log), default=0)
        return [Rank(replica, most, 0, 1).participant for replica in range(kept, most)]

    def begin(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a commit whose state this is; None: from the beginning. How many go on is for others to say."""
        state = state or {}
        self.before, self.next = state.get("replicas"), state.get("next", 0)
        self.shards_before = state.get("shards", self.shards)
        self.log, self.news = [list(entry) for entry in state.get("log", ())], []
        if self.cuts:
            change = f"from {self.shards_before} to {self.shards} shards of a replica"
            self.news.append(("members", change, "what they had saved was cut anew"))

    def received(self, increment: int) -> None:
        """An increment is about to be learned by those who are there."""
        self.next = increment + 1
        last = self.log[-1][1] if self.log else None
        if last == self.count:
            return
        if last is not None:
            change = f"from {last} to {self.count} replicas"
            self.news.append(("members", change, "what they remember was dealt anew"))
        self.log.append([increment, self.count])

    def saved(self) -> dict[str, Any]:
        """What a commit keeps of it."""
        self.before, self.shards_before, self.news = self.count, self.shards, []
        log = [list(entry) for entry in self.log]
        return {"replicas": self.count, "shards": self.shards, "next": self.next, "log": log}
