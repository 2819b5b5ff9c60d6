"""The workers of a run: who has which rank, and who takes the place of one that is lost."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ray.exceptions import GetTimeoutError, RayActorError

from cluster._actors import Actors
from cluster._heartbeat import Pulse
from cluster._rank import Rank
from cluster._worker_calls import Member, NoRoom, WorkerCalls
from cluster._worker_messages import Setup
from incr_core.errors import WorkerLost

__all__ = ["WorkerPool"]

START = 120.0
"""Seconds that a worker has to be placed on a node and to start, if the timeout is not more."""

log = logging.getLogger("incr.cluster")


class WorkerPool(WorkerCalls):
    """A worker for every rank, spares beside them, and calls to all of them at once.

    `form` fills the empty ranks, with spares as far as there are any, and lets all meet anew: the next generation.

    actors, store, timeout: as of `WorkerCalls`. spares: how many workers wait to take a rank. setup: what they are
    built from.
    """

    def __init__(self, actors: Actors, store: Any, timeout: float, *, spares: int, setup: Setup) -> None:
        super().__init__(actors, store, timeout)
        self._setup, self._packed = setup, actors.shared(setup)
        self._patient = True
        self._made = Counter[str]()
        self._spares: list[tuple[Any, Any]] = []  # and the call that returns once one is there
        self._wanted_spares = spares
        self._room = True

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers, by rank."""
        return [member.process.pid for _, member in sorted(self._members.items()) if member.process is not None]

    def nodes(self) -> dict[str, str]:
        """The ids of the nodes that workers are on, and who is on each."""
        found = dict[str, list[int]]()
        for number, member in sorted(self._members.items()):
            found.setdefault(member.process.node if member.process else "", []).append(number)
        return {node: self._named(numbers) for node, numbers in found.items()}

    def form(self, ranks: Sequence[Rank], *, patient: bool = True) -> list[Rank]:
        """Let there be a worker of each of these ranks, and nobody else, and let all meet; returns the ranks that
        were filled.

        patient: whether workers that find no room are waited for as long as a start may take, not for the timeout only.

        Raises NoRoom where there is none for a worker, WorkerLost where one is lost again, and what it raised.
        """
        others = len(ranks) != len(self.ranks)
        self._patient, self._ahead = patient, ("", {})
        if others:
            self._dismiss(range(len(ranks), len(self.ranks)), lost=False)
            self.ranks = list(ranks)
        self._pulse = self._pulse_of(ranks)
        empty = [number for number in range(len(self.ranks)) if number not in self._members]
        if not empty and not others:
            return []
        self.generation += 1
        self._look_for_room(len(empty) - len(self._spares))
        for number in empty:
            self._fill(number)
        build = {
            number: (self.ranks[number], self._members[number].key, self.generation, self._packed) for number in empty
        }
        try:
            processes = self._results(self._begun("build", build), "build")
        except (WorkerLost, NoRoom):
            self._dismiss(empty)  # who of them is left need not be whole
            raise
        for number, process in zip(empty, processes, strict=True):
            self._members[number].process = process
        self.call("join", self.generation, self.ranks[0].replicas)
        if self.generation == 1:
            self._make_spares()
        return [self.ranks[number] for number in empty]

    def _pulse_of(self, ranks: Sequence[Rank]) -> Pulse:
        keys = [self._members[number].key if number in self._members else rank.key for number, rank in enumerate(ranks)]
        start = max(START, self._timeout) if self._patient else self._timeout
        return Pulse(self._store, keys, self._timeout, start, starved=self._has_room)

    def committed(self) -> None:
        """A commit was reached: what was raised before may be raised again, and spares that were used are made anew.

        Not before: a spare that starts would take the processor from those who have to learn again.
        """
        self._raised = {}
        self._make_spares()

    def _make_spares(self) -> None:
        while len(self._spares) < self._wanted_spares:
            self._spares.append(self._actor("spare"))

    @property
    def here(self) -> int:
        """How many workers have a rank, and are not known to be lost."""
        return len(self._members)

    def room(self) -> int:
        """How many more workers there could be now, those who wait included."""
        return int(self._actors.free()) + len(self._spares)

    def invite(self, workers: int) -> None:
        """Let so many more wait than those who wait anyway, as far as there is room."""
        more = min(self._wanted_spares + workers, self.room()) - len(self._spares)
        self._spares += [self._actor("newcomer") for _ in range(more)]

    @property
    def ready(self) -> int:
        """How many wait for a rank, and have started."""
        ready = 0
        for _, warm in self._spares:
            with suppress(GetTimeoutError, RayActorError):
                self._actors.results([warm], timeout=0)
                ready += 1
        return ready

    def waiting(self) -> int:
        """How many of them beside those who are to wait."""
        return self.ready - self._wanted_spares

    def _fill(self, number: int) -> None:
        """Give an empty rank to somebody: a spare that is still alive, else somebody new."""
        rank = self.ranks[number]
        key = f"{rank.key}/{self.generation}"
        self._pulse.replace(number, key)
        while self._spares:
            spare, warm = self._spares.pop(0)
            try:
                self._actors.results([warm], timeout=0)
            except GetTimeoutError:
                pass  # it is starting, and so nearer to it than another
            except RayActorError:
                continue
            self._members[number] = Member(spare, key)
            return
        self._members[number] = Member(self._actor(rank.described)[0], key)

    def _actor(self, name: str) -> tuple[Any, Any]:
        """Somebody new, and the call that returns once it is there."""
        self._made[name] += 1
        again = f", number {self._made[name]}" if self._made[name] > 1 else ""
        actor = self._actors.make(f"{self._setup.document['name']} {name} (run {self._setup.directory.path}{again})")
        return actor, self._actors.call(actor, "warm", (), {})

    def _look_for_room(self, workers: int) -> None:
        """Say at once where there is no room for so many more workers: they start once there is."""
        # What a lost worker held is given back after a moment: then only what there is at all counts.
        total = self._actors.total()
        found, wanted = (self._actors.free(), workers) if self.generation == 1 else (total, len(self.ranks))
        self._room = found >= wanted
        if not self._room:
            log.warning(
                "cluster: waiting for room: %d workers need %s each, Ray has room for %g; add nodes, or lower "
                "cluster.replicas or cluster.shards",
                wanted,
                self._actors.need,
                found,
            )

    def _has_room(self, number: int) -> bool:
        """Whether a silent worker's process may run: then its host has no time for it, and it will come to it."""
        member = self._members.get(number)
        if member is None or member.process is None:
            # One that has a rank is slow to start, which is no reason to do without it.
            return (self._room and self._patient) or (member is not None and self._actors.placed(member.actor))
        return member.process.may_run()

    def close(self) -> None:
        """End all workers; where Ray has stopped, they have ended with it."""
        for actor in [*(member.actor for member in self._members.values()), *(spare for spare, _ in self._spares)]:
            self._actors.end(actor)
        self._members, self._spares = {}, []
