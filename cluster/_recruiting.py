"""How many replicas learn on: what the job says, or what the cluster has of a range; who can join is invited."""

from __future__ import annotations

import time

from cluster._membership import Membership
from cluster._rank import Rank
from cluster._worker_calls import NoRoom
from cluster._worker_pool import WorkerPool

__all__ = ["Recruiter"]

SETTLE = 5.0
"""Seconds in which what a lost worker held must be free again, or fewer go on."""

LOOK = 1.0
"""Seconds between looks for more workers, where there may be more."""


class Recruiter:
    """Decide how many there are, and see that they are there.

    pool: the workers. members: what is decided. spares: workers that are to wait, and no replica takes for good.
    """

    def __init__(self, pool: WorkerPool, members: Membership, spares: int) -> None:
        self._pool, self._members, self._spares = pool, members, spares
        self._guests = 0  # replicas whose workers wait to join
        self._looked = 0.0

    def form(self) -> list[Rank]:
        """Let each rank have a worker; returns the ranks of those who are new.

        In a range there are fewer where Ray has no room for all. Raises NoRoom where those are too few.
        """
        wanted, members = self._members.wanted, self._members
        members.count = self._decided()
        while True:
            patient = bool(wanted.log) or members.count == wanted.least
            try:
                return self._pool.form(members.ranks, patient=patient)
            except NoRoom:
                if patient:
                    raise
                members.count = max(wanted.least, self._pool.here // members.shards)

    def _decided(self) -> int:
        wanted, members = self._members.wanted, self._members
        if wanted.log:
            return wanted.at(members.next)
        if wanted.fixed:
            return wanted.least
        guests, self._guests = self._guests, 0
        if guests:
            return min(wanted.most, self._pool.here // members.shards + guests)
        # What a lost worker held is free again after a moment; what a lost node had is not.
        before, until = members.before or 0, time.monotonic() + SETTLE
        while self._possible(0) < before and time.monotonic() < until:
            time.sleep(0.1)
        # A spare takes the place of who is lost, and makes no replica more.
        count = max(min(before, self._possible(0)), self._possible(self._spares))
        return min(wanted.most, max(wanted.least, count))

    def _possible(self, waiting: int) -> int:
        """How many replicas there could be now, where so many workers are to wait."""
        return (self._pool.here + self._pool.room() - waiting) // self._members.shards

    def membership_changes(self) -> bool:
        """Whether the number of replicas changes now: the log says so, or a worker that can join has started."""
        wanted, members = self._members.wanted, self._members
        if wanted.log:
            return wanted.at(members.next) != members.count
        if members.count == wanted.most or time.monotonic() < self._looked + LOOK:
            return False
        self._looked = time.monotonic()
        self._guests = max(0, self._pool.waiting()) // members.shards
        more = min(wanted.most, self._possible(self._spares)) - members.count
        if self._guests < more:
            self._pool.invite(more * members.shards)
        return self._guests > 0
