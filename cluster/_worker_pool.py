"""The workers of a run: the assignment of ranks, and the replacement of lost workers."""

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
"""Minimum of the seconds that a worker has to be placed on a node and to start."""

log = logging.getLogger("incr.cluster")


class WorkerPool(WorkerCalls):
    """A worker for every rank, spares, and calls to all workers at once.

    `form` fills the empty ranks, with spares first, and connects all workers: the next generation.

    Args:
        actors: As for `WorkerCalls`.
        store: As for `WorkerCalls`.
        timeout: As for `WorkerCalls`.
        spares: Number of workers that wait to take a rank.
        setup: Everything from which workers are built.
    """

    def __init__(self, actors: Actors, store: Any, timeout: float, *, spares: int, setup: Setup) -> None:
        super().__init__(actors, store, timeout)
        self._setup, self._packed = setup, actors.shared(setup)
        self._patient = True
        self._made = Counter[str]()
        self._spares: list[tuple[Any, Any]] = []  # and the call that returns once the spare has started
        self._wanted_spares = spares
        self._room = True

    @property
    def processes(self) -> list[int]:
        """Process ids of the workers, by rank."""
        return [member.process.pid for _, member in sorted(self._members.items()) if member.process is not None]

    def nodes(self) -> dict[str, str]:
        """Ids of the nodes that have workers, and a description of the workers on each."""
        found = dict[str, list[int]]()
        for number, member in sorted(self._members.items()):
            found.setdefault(member.process.node if member.process else "", []).append(number)
        return {node: self._named(numbers) for node, numbers in found.items()}

    def form(self, ranks: Sequence[Rank], *, patient: bool = True) -> list[Rank]:
        """Fill exactly these ranks with workers and connect them; return the ranks that were filled.

        Args:
            patient: Whether workers without room are waited for as long as a start may take, and not for the timeout
                only.

        Raises:
            NoRoom: There is no room for a worker.
            WorkerLost: A worker is lost again.
            IncrError: The error of a worker.
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
            self._dismiss(empty)  # workers that remain may belong to an incomplete replica
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
        """Note a commit: earlier errors may be raised again, and used spares are replaced.

        Spares are not replaced earlier, because their start would take the processor from workers that must learn
        again.
        """
        self._raised = {}
        self._make_spares()

    def _make_spares(self) -> None:
        while len(self._spares) < self._wanted_spares:
            self._spares.append(self._actor("spare"))

    @property
    def here(self) -> int:
        """Number of workers that have a rank and are not known to be lost."""
        return len(self._members)

    def room(self) -> int:
        """Number of further workers for which there is room, including spares."""
        return int(self._actors.free()) + len(self._spares)

    def invite(self, workers: int) -> None:
        """Start a number of additional spares, as far as there is room."""
        more = min(self._wanted_spares + workers, self.room()) - len(self._spares)
        self._spares += [self._actor("newcomer") for _ in range(more)]

    @property
    def ready(self) -> int:
        """Number of spares that have started."""
        ready = 0
        for _, warm in self._spares:
            with suppress(GetTimeoutError, RayActorError):
                self._actors.results([warm], timeout=0)
                ready += 1
        return ready

    def waiting(self) -> int:
        """Number of spares beyond the configured number."""
        return self.ready - self._wanted_spares

    def _fill(self, number: int) -> None:
        """Assign an empty rank to a live spare, or else to a new worker."""
        rank = self.ranks[number]
        key = f"{rank.key}/{self.generation}"
        self._pulse.replace(number, key)
        while self._spares:
            spare, warm = self._spares.pop(0)
            try:
                self._actors.results([warm], timeout=0)
            except GetTimeoutError:
                pass  # it is starting, and therefore ready earlier than a new one
            except RayActorError:
                continue
            self._members[number] = Member(spare, key)
            return
        self._members[number] = Member(self._actor(rank.described)[0], key)

    def _actor(self, name: str) -> tuple[Any, Any]:
        """Start a new worker. Returns it with the call that returns once it has started."""
        self._made[name] += 1
        again = f", number {self._made[name]}" if self._made[name] > 1 else ""
        actor = self._actors.make(f"{self._setup.document['name']} {name} (run {self._setup.directory.path}{again})")
        return actor, self._actors.call(actor, "warm", (), {})

    def _look_for_room(self, workers: int) -> None:
        """Log at once if there is no room for this many further workers. They start when there is."""
        # Resources of a lost worker become free after a moment, so only the total counts then.
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
        """Return whether a silent worker's process may run. Its host is then busy, and the worker will continue."""
        member = self._members.get(number)
        if member is None or member.process is None:
            # A worker that has a rank is slow to start, which does not justify its loss.
            return (self._room and self._patient) or (member is not None and self._actors.placed(member.actor))
        return member.process.may_run()

    def close(self) -> None:
        """End all workers. If Ray has stopped, they have already ended."""
        for actor in [*(member.actor for member in self._members.values()), *(spare for spare, _ in self._spares)]:
            self._actors.end(actor)
        self._members, self._spares = {}, []
