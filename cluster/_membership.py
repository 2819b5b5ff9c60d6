"""Members of a run: the current numbers of replicas and shards, and the log of the numbers of replicas by increment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster._rank import Rank
from incr_core.job import Replicas

__all__ = ["Membership"]


class Membership:
    """The number of replicas of a run, for each increment.

    The bits of a run are a function of its job, its rows and this log (law 9). A run with the log as `cluster.replicas`
    makes the same changes, whatever workers the cluster has.

    Args:
        wanted: Number or range in the job.
        shards: Shards of each replica.
        count: Replicas now.
        before: Replicas at the last commit, if there was one.
        shards_before: Shards of each replica at the last commit.
        next: Number of the next increment.
        log: Pairs of the first increment and the number of replicas from it on.

    Example:
        >>> members = Membership(Replicas.of("2..3"), shards=1)
        >>> members.begin(None); members.count = 2; members.received(0); members.next
        1
        >>> state = members.saved(); state["log"]
        [[0, 2]]
        >>> members.begin(state); members.count = 3; members.received(1); members.log, members.news
        ([[0, 2], [1, 3]], [('members', 'from 2 to 3 replicas', 'memories were distributed again')])
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
        """Ranks of all workers, by replica."""
        return [
            Rank(replica, self.count, shard, self.shards)
            for replica in range(self.count)
            for shard in range(self.shards)
        ]

    @property
    def cuts(self) -> bool:
        """Whether the number of shards of the model has changed since the last commit."""
        return self.shards_before != self.shards

    @property
    def inherits(self) -> bool:
        """Whether the number of replicas has changed since the last commit."""
        return self.before not in (None, self.count)

    @property
    def retired(self) -> list[str]:
        """Names of former replicas that neither this commit nor the last one includes."""
        kept, most = max(self.before or 0, self.count), max((count for _, count in self.log), default=0)
        return [Rank(replica, most, 0, 1).participant for replica in range(kept, most)]

    def begin(self, state: Mapping[str, Any] | None) -> None:
        """Continue from the state of a commit, or begin (None). The caller decides the number of replicas."""
        state = state or {}
        self.before, self.next = state.get("replicas"), state.get("next", 0)
        self.shards_before = state.get("shards", self.shards)
        self.log, self.news = [list(entry) for entry in state.get("log", ())], []
        if self.cuts:
            change = f"from {self.shards_before} to {self.shards} shards of a replica"
            self.news.append(("members", change, "saved states were cut again"))

    def received(self, increment: int) -> None:
        """Record that the present replicas are about to learn an increment."""
        self.next = increment + 1
        last = self.log[-1][1] if self.log else None
        if last == self.count:
            return
        if last is not None:
            change = f"from {last} to {self.count} replicas"
            self.news.append(("members", change, "memories were distributed again"))
        self.log.append([increment, self.count])

    def saved(self) -> dict[str, Any]:
        """State for a commit."""
        self.before, self.shards_before, self.news = self.count, self.shards, []
        log = [list(entry) for entry in self.log]
        return {"replicas": self.count, "shards": self.shards, "next": self.next, "log": log}
