"""The workers as one: call all of them, notice who is lost, and take others in their place."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from cluster.heartbeat import Pulse
from cluster.peers import ended_key
from cluster.place import Place
from cluster.processes import Process
from cluster.worker import Setup, ShardWorker
from incr_core.errors import EngineError, IncrError, JobError, WorkerLost

__all__ = ["NoRoom", "WorkerPool", "never_made"]

LOOK = 1.0
"""Seconds between looks at who is alive, while a call takes long."""

START = 120.0
"""Seconds that a worker has to be placed on a node and to start, if the timeout is not more."""

SLOW_START = 10.0
"""Seconds of waiting for workers to start after which somebody is told what is waited for."""

log = logging.getLogger("incr.cluster")


class NoRoom(JobError):
    """Ray has no room for as many workers as there are to be."""


@dataclass(slots=True)
class _Member:
    """A worker in its place: the actor, its key in the store, and its process and node, once they are known."""

    actor: Any
    key: str
    process: Process | None = None
    node: str = ""


class ShardWorkerActor(ShardWorker):
    """A worker as Ray keeps it."""

    def node(self) -> str:
        """The id of the node that it is on."""
        found: str = ray.get_runtime_context().get_node_id()
        return found


class WorkerPool:
    """One Ray actor for every place, spares beside them, and calls to all of them at once.

    Where one worker is lost, its replica is: the shards of a replica cannot go on without one another. A call then
    raises WorkerLost, and everybody else has ended what it was at. `form` fills the empty places, with spares as far
    as there are any, and lets all meet anew: the next generation.

    store: through which they meet. timeout: seconds of silence after which a worker is lost. gpu: whether each worker
    needs a GPU, rather than a CPU. spares: how many workers wait to take a place. setup: what they are built from.
    """

    def __init__(self, store: Any, timeout: float, *, gpu: bool, spares: int, setup: Setup) -> None:
        self.places: list[Place] = []
        self.generation = 0
        self._store, self._timeout, self._setup = store, timeout, setup
        self._need = "GPU" if gpu else "CPU"
        self._patient = True
        # A worker that died is not restarted by Ray: who takes its place, and when, is decided here.
        self._kind = ray.remote(num_cpus=int(not gpu), num_gpus=int(gpu), max_restarts=0)(ShardWorkerActor)
        # A namespace of its own: those of an earlier process of this run may not have ended yet.
        self._namespace, self._made = f"incr {uuid4().hex[:8]}", Counter[str]()
        self._members: dict[int, _Member] = {}
        self._pulse = self._pulse_of(())
        self._spares: list[tuple[Any, Any]] = []  # and the call that returns once one is there
        self._wanted_spares = spares
        self._room = True
        self._raised: dict[int, str] = {}  # what workers raised when they were lost, since the last commit

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers, by place."""
        return [member.process.pid for _, member in sorted(self._members.items()) if member.process is not None]

    @property
    def nodes(self) -> dict[str, str]:
        """The ids of the nodes that workers are on, and who is on each."""
        found = dict[str, list[int]]()
        for number, member in sorted(self._members.items()):
            found.setdefault(member.node, []).append(number)
        return {node: self._named(numbers) for node, numbers in found.items()}

    def _pulse_of(self, places: Sequence[Place]) -> Pulse:
        keys = [
            self._members[number].key if number in self._members else place.key for number, place in enumerate(places)
        ]
        start = max(START, self._timeout) if self._patient else self._timeout
        return Pulse(self._store, keys, self._timeout, start, starved=self._has_room)

    # -- who is there --------------------------------------------------------------------------------------------

    def form(self, places: Sequence[Place], *, patient: bool = True) -> list[Place]:
        """Let there be a worker in each of these places, and nobody else, and let all meet; returns the places that
        were filled.

        patient: whether workers that find no room are waited for as long as a start may take, not for the timeout only.

        Raises NoRoom where there is none for a worker, WorkerLost where one is lost again, and what it raised.
        """
        others = len(places) != len(self.places)
        self._patient = patient
        if others:
            self._dismiss(range(len(places), len(self.places)), lost=False)
            self.places = list(places)
        self._pulse = self._pulse_of(places)
        empty = [number for number in range(len(self.places)) if number not in self._members]
        if not empty and not others:
            return []
        self.generation += 1
        self._look_for_room(len(empty) - len(self._spares))
        for number in empty:
            self._fill(number)
        build = [(self.places[number], self._members[number].key, self.generation, self._setup) for number in empty]
        try:
            processes = self._call(empty, "build", build)
        except (WorkerLost, NoRoom):
            self._dismiss(empty)  # who of them is left need not be whole
            raise
        nodes = self._call(empty, "node", [()] * len(empty))
        for number, process, node in zip(empty, processes, nodes, strict=True):
            self._members[number].process, self._members[number].node = process, node
        self.call("join", self.generation, self.places[0].replicas)
        if self.generation == 1:
            self._make_spares()
        return [self.places[number] for number in empty]

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
        """How many workers have a place, and are not known to be lost."""
        return len(self._members)

    def room(self) -> int:
        """How many more workers there could be now, those who wait included."""
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        return int(free.get(self._need, 0.0)) + len(self._spares)

    def invite(self, workers: int) -> None:
        """Let so many more wait than those who wait anyway, as far as there is room."""
        more = min(self._wanted_spares + workers, self.room()) - len(self._spares)
        self._spares += [self._actor("newcomer") for _ in range(more)]

    def waiting(self) -> int:
        """How many wait for a place, and have started, beside those who are to wait."""
        ready = 0
        for _, warm in self._spares:
            with suppress(GetTimeoutError, RayActorError):
                ray.get(warm, timeout=0)
                ready += 1
        return ready - self._wanted_spares

    def _fill(self, number: int) -> None:
        """Put somebody in an empty place: a spare that is still alive, else somebody new."""
        place = self.places[number]
        key = f"{place.key}/{self.generation}"
        self._pulse.replace(number, key)
        while self._spares:
            spare, warm = self._spares.pop(0)
            try:
                ray.get(warm, timeout=0)
            except GetTimeoutError:
                pass  # it is starting, and so nearer to it than another
            except RayActorError:
                continue
            self._members[number] = _Member(spare, key)
            return
        self._members[number] = _Member(self._actor(place.described)[0], key)

    def _actor(self, name: str) -> tuple[Any, Any]:
        """Somebody new, and the call that returns once it is there."""
        self._made[name] += 1
        again = f", number {self._made[name]}" if self._made[name] > 1 else ""
        named = f"{self._setup.document['name']} {name} (run {self._setup.directory.path}{again})"
        actor: Any = self._kind.options(name=named, namespace=self._namespace).remote()
        return actor, actor.warm.remote()

    def _look_for_room(self, workers: int) -> None:
        """Say at once where Ray has no room for so many more workers: they start once it has.

        EngineError where it has no node any more.
        """
        if not any(node["Alive"] for node in ray.nodes()):  # type: ignore[no-untyped-call]
            raise EngineError("Ray has no node any more: the raylet of this host is gone")
        # What a lost worker held is given back after a moment: then only what there is at all counts.
        ask = ray.available_resources if self.generation == 1 else ray.cluster_resources
        found = ask().get(self._need, 0.0)  # type: ignore[no-untyped-call]
        wanted = workers if self.generation == 1 else len(self.places)
        self._room = found >= wanted
        if not self._room:
            log.warning(
                "cluster: waiting for room: %d workers need a %s each, Ray has %g; add nodes, or lower "
                "cluster.replicas or cluster.shards",
                wanted,
                self._need,
                found,
            )

    def _has_room(self, number: int) -> bool:
        """Whether a silent worker's process may run: then its host has no time for it, and it will come to it."""
        member = self._members.get(number)
        if member is None or member.process is None:
            return self._room and self._patient
        return member.process.may_run()

    def _dismiss(self, numbers: Iterable[int], *, lost: bool = True) -> None:
        """End the replicas of workers, lost ones or those of whom there are to be fewer."""
        replicas = {self.places[number].replica for number in numbers}
        for number, place in enumerate(self.places):
            if place.replica in replicas and number in self._members:
                member = self._members.pop(number)
                if lost and member.process is not None:
                    member.process.kill()  # Ray asks a process to end, and a stopped one does not hear it
                if ray.is_initialized():
                    ray.kill(member.actor, no_restart=True)

    def close(self) -> None:
        """End all workers; where Ray has stopped, they have ended with it."""
        actors = [*(member.actor for member in self._members.values()), *(spare for spare, _ in self._spares)]
        for actor in actors if ray.is_initialized() else ():
            ray.kill(actor, no_restart=True)
        self._members, self._spares = {}, []

    # -- calls ---------------------------------------------------------------------------------------------------

    def call(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        """Call a method of all workers with the same arguments; their results, by place."""
        return self._call(range(len(self.places)), method, [arguments] * len(self.places), options)

    def call_each(self, method: str, arguments: Sequence[Sequence[Any]]) -> list[Any]:
        """Call a method of all workers, each with its own arguments; their results, by place.

        Raises WorkerLost as soon as one is dead or has long been silent, and what a worker itself raised.
        """
        return self._call(range(len(self.places)), method, arguments)

    def _call(
        self,
        numbers: Sequence[int],
        method: str,
        arguments: Sequence[Sequence[Any]],
        options: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        if missing := [number for number in numbers if number not in self._members]:
            raise WorkerLost(f"{self._named(missing)} is lost")
        calls = {
            number: getattr(self._members[number].actor, method).remote(*own, **(options or {}))
            for number, own in zip(numbers, arguments, strict=True)
        }
        self._pulse.listen()
        begun, told = time.monotonic(), False
        while True:
            try:
                results: list[Any] = ray.get(list(calls.values()), timeout=LOOK)
                return results
            except GetTimeoutError:
                lost = self._looked_at(calls)
                if not told and method == "build" and time.monotonic() - begun > SLOW_START:
                    told = self._tell_of_slow_start()
            except (RayActorError, RayTaskError) as error:
                lost = self._explained(calls, error)
            if lost:
                self._end(calls, lost)
                raise WorkerLost("; ".join(f"{self.places[number]} {reason}" for number, reason in lost.items()))

    def _looked_at(self, calls: Mapping[int, Any]) -> dict[int, str]:
        """A call is slow: who is lost, by place, and why; check for calls that have failed, and for silent workers."""
        ready, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=0)
        for call in ready:
            try:
                ray.get(call)
            except (RayActorError, RayTaskError) as error:
                return self._explained(calls, error)
        silent = [one for one in self._pulse.lost(receiving=bool(ready)) if one.place in calls]
        never = [number for number in self._pulse.never_heard() if number in calls]
        if silent and never:
            raise self._cannot_start(never)
        return {one.place: one.told for one in silent}

    def _explained(self, calls: Mapping[int, Any], error: Exception) -> dict[int, str]:
        """A call has failed: who is lost, by place, and why. Raises what is the job's own fault.

        When a worker dies, its peers' exchanges may fail a moment before its death is known.
        """
        lost, raised = dict[int, str](), dict[int, BaseException]()
        waiting, until = dict(calls), time.monotonic() + self._timeout
        self._pulse.listen()
        while waiting and not lost and time.monotonic() < until:
            ready, _ = ray.wait(list(waiting.values()), timeout=LOOK)
            for number in [number for number, call in waiting.items() if call in ready]:
                try:
                    ray.get(waiting.pop(number))
                except RayActorError as death:
                    reason = never_made(death)
                    if reason and self.generation == 1:
                        raise JobError(
                            f"cluster: expected {self.places[number]} to start, got {reason}; install on every node "
                            "what this host has, or send it along (ray job submit --working-dir)"
                        ) from death
                    lost[number] = f"died, before it was made: {reason}," if reason else "died"
                except RayTaskError as failure:
                    raised[number] = failure.cause
            own = {number: cause for number, cause in raised.items() if not isinstance(cause, EngineError)}
            if own:
                self._judge(own, calls, error)
                lost |= {number: f"raised {type(cause).__name__}: {cause}" for number, cause in own.items()}
            # Who lost the connection to a peer knows not which; a node's end is known after a while.
            lost |= {one.place: one.told for one in self._pulse.lost() if one.place in waiting}
        begins = self.generation == 1 and not any(self._members[number].process for number in calls)
        if begins and raised and not lost:  # they have not met yet: others would not meet either
            raise EngineError(str(next(iter(raised.values())))) from error
        return lost or dict.fromkeys(waiting or raised, "lost the connection to its peers")

    def _judge(self, raised: Mapping[int, BaseException], calls: Mapping[int, Any], error: Exception) -> None:
        """Raise what a worker raised, where another worker in its place would raise it again.

        That is what all raise at once, or one after it was replaced, and each error of ours but those of engines.
        """
        for cause in raised.values():
            if isinstance(cause, IncrError):
                raise cause
        told = {number: f"{type(cause).__name__}: {cause}" for number, cause in raised.items()}
        everybody = len(calls) > 1 and len(told) == len(calls) and len(set(told.values())) == 1
        if everybody or any(self._raised.get(number) == text for number, text in told.items()):
            raise error
        self._raised = told

    def _end(self, calls: Mapping[int, Any], lost: Mapping[int, str]) -> None:
        """End the generation: dismiss who is lost, and let the others end what they are at."""
        self._dismiss(lost)
        self._store.set(ended_key(self.generation), "")
        others = {number: call for number, call in calls.items() if number in self._members}
        if not others:
            return
        ready, late = ray.wait(list(others.values()), num_returns=len(others), timeout=self._timeout)
        dead = [number for number, call in others.items() if call in late]
        for number, call in others.items():
            if call in ready:
                try:
                    ray.get(call)
                except RayActorError:
                    dead.append(number)
                except RayTaskError:
                    pass  # it has noticed that its generation has ended
        self._dismiss(dead)

    def _named(self, numbers: Sequence[int]) -> str:
        return ", ".join(str(self.places[number]) for number in numbers)

    def _tell_of_slow_start(self) -> bool:
        never = self._pulse.never_heard()
        if never:
            log.warning("cluster: waiting for %s to start", self._named(never))
        return True

    def _cannot_start(self, never: Sequence[int]) -> NoRoom:
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        return NoRoom(
            f"cluster: {self._named(never)} did not start within {self._pulse.start:g} s; the job needs "
            f"{len(self.places)} workers with a {self._need} each, and Ray has {free.get(self._need, 0.0):g} more; "
            "lower cluster.replicas or cluster.shards, or add nodes"
        )


def never_made(death: RayActorError) -> str:
    """Why an actor never lived: a package that its node lacks, say; empty where it did."""
    if "creation task" not in str(death):
        return ""
    return str(death).strip().splitlines()[-1].strip()
