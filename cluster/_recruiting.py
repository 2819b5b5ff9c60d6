"""Number of replicas that continue: the number in the job, or, for a range, as many as the cluster has room for."""

from __future__ import annotations

import time

from cluster._membership import Membership
from cluster._rank import Rank
from cluster._worker_calls import NoRoom
from cluster._worker_pool import WorkerPool

__all__ = ["Recruiter"]

SETTLE = 5.0
"""Seconds in which resources of a lost worker must become free. After that, fewer replicas continue."""

LOOK = 1.0
"""Seconds between checks for additional workers, if the job allows more."""


class Recruiter:
    """Decides the number of replicas and ensures that their workers exist.

    Args:
        pool: The workers.
        members: The decided numbers.
        spares: Number of workers that are kept waiting and form no additional replica.
    """

    def __init__(self, pool: WorkerPool, members: Membership, spares: int) -> None:
        self._pool, self._members, self._spares = pool, members, spares
        self._guests = 0  # replicas whose workers wait to join
        self._looked = 0.0

    def form(self) -> list[Rank]:
        """Ensure that each rank has a worker; return the ranks of new workers.

        In a range, there are fewer ranks if Ray has no room for all.

        Raises:
            NoRoom: There is no room for the minimum.
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
        # The resources of a lost worker become free after a moment. Those of a lost node do not.
        before, until = members.before or 0, time.monotonic() + SETTLE
        while self._possible(0) < before and time.monotonic() < until:
            time.sleep(0.1)
        # A spare replaces a lost worker and does not form an additional replica.
        count = max(min(before, self._possible(0)), self._possible(self._spares))
        return min(wanted.most, max(wanted.least, count))

    def _possible(self, waiting: int) -> int:
        """Number of replicas that are possible if the given number of workers is kept waiting."""
        return (self._pool.here + self._pool.room() - waiting) // self._members.shards

    def membership_changes(self) -> bool:
        """Return whether the number of replicas changes now: by the log, or because workers can join."""
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
