"""Calls to all workers at once. Lost workers are detected and dismissed, and the others end their work."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from cluster._actors import Actors, never_made
from cluster._causes import Causes
from cluster._heartbeat import Pulse
from cluster._peers import ended_key
from cluster._processes import Process
from cluster._rank import Rank
from incr_core.errors import EngineError, IncrError, JobError, WorkerLost

__all__ = ["Member", "NoRoom", "WorkerCalls"]

LOOK = 1.0
"""Seconds between checks for lost workers while a call takes long."""

SOON = 0.05
"""Seconds between checks for the cause once a call has failed."""

GRACE = 0.5
"""Seconds in which the end of a process may become known after its peers have failed."""

SLOW_START = 10.0
"""Seconds of waiting for workers to start after which a log line names the cause."""

log = logging.getLogger("incr.cluster")


class NoRoom(JobError):
    """There is no room for the required number of workers."""


@dataclass(slots=True)
class Member:
    """The worker of a rank: the actor, its key in the store, and its process once that is known."""

    actor: Any
    key: str
    process: Process | None = None


class WorkerCalls:
    """Workers by rank, and calls to all of them.

    If one worker is lost, its replica is lost: the shards of a replica need one another. A call then raises WorkerLost
    after all other workers have ended their work.

    Args:
        actors: Where the workers run.
        store: The store through which they meet.
        timeout: Seconds of silence after which a worker is lost.
    """

    def __init__(self, actors: Actors, store: Any, timeout: float) -> None:
        self.ranks: list[Rank] = []
        self.generation = 0
        self._actors, self._store, self._timeout = actors, store, timeout
        self._members: dict[int, Member] = {}
        self._pulse = Pulse(store, (), timeout, timeout)
        self._ahead: tuple[str, dict[int, Any]] = "", {}  # a call begun in advance: method, references by rank
        self._raised: dict[int, str] = {}  # errors of workers that were lost since the last commit

    def call(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        """Call a method of all workers with the same arguments. Returns their results, by rank."""
        return self.call_each(method, [arguments] * len(self.ranks), **options)

    def begin(self, method: str) -> None:
        """Begin a method without arguments on all workers, while the driver does other work.

        The next call of that method returns its results.
        """
        self._ahead = method, self._begun(method, dict.fromkeys(range(len(self.ranks)), ()))

    def call_each(
        self,
        method: str,
        arguments: Sequence[Sequence[Any]],
        *,
        then: str = "",
        waiting: Callable[[], None] | None = None,
        **options: Any,
    ) -> list[Any]:
        """Call a method of all workers, each with its own arguments. Returns their results, by rank.

        Args:
            then: A method to `begin` after this one.
            waiting: Called every second during the call.

        Raises:
            WorkerLost: A worker is dead or has been silent for too long.
            IncrError: The error of a worker.
        """
        begun, calls = self._ahead
        if begun == method:
            self._ahead = "", {}
        else:
            calls = self._begun(method, dict(enumerate(arguments)), options)
        if then:
            self.begin(then)
        return self._results(calls, method, waiting)

    def call_first(self, method: str, **options: Any) -> Any:
        """Call a method of the workers of the first replica. Returns the result of the first of them."""
        first = {number: () for number, rank in enumerate(self.ranks) if rank.replica == 0}
        return self._results(self._begun(method, first, options), method)[0]

    def _begun(
        self, method: str, arguments: Mapping[int, Sequence[Any]], options: Mapping[str, Any] | None = None
    ) -> dict[int, Any]:
        """Begin calls of workers, each with its arguments; both by rank."""
        if missing := [number for number in arguments if number not in self._members]:
            raise WorkerLost(f"{self._named(missing)} is lost")
        return {
            number: self._actors.call(self._members[number].actor, method, own, options or {})
            for number, own in arguments.items()
        }

    def _results(self, calls: Mapping[int, Any], method: str, waiting: Callable[[], None] | None = None) -> list[Any]:
        """Return the results of calls."""
        self._pulse.listen()
        begun, told = time.monotonic(), False
        while True:
            try:
                return self._actors.results(list(calls.values()), timeout=LOOK)
            except GetTimeoutError:
                with self._ended_by_errors():
                    lost = self._looked_at(calls)
                if waiting is not None and not lost:
                    waiting()
                if not told and method == "build" and time.monotonic() - begun > SLOW_START:
                    told = self._tell_of_slow_start()
            except (RayActorError, RayTaskError) as error:
                with self._ended_by_errors():
                    lost = self._explained(calls, error)
            if lost:
                self._end(calls, lost)
                raise WorkerLost("; ".join(f"{self.ranks[number]} {reason}" for number, reason in lost.items()))

    @contextmanager
    def _ended_by_errors(self) -> Iterator[None]:
        """Treat errors from here on as the job's own: no worker is replaced, and none may wait for the failed one."""
        try:
            yield
        except BaseException:
            self._store.set(ended_key(self.generation), "")
            raise

    # -- lost workers --------------------------------------------------------------------------------------------

    def _looked_at(self, calls: Mapping[int, Any]) -> dict[int, str]:
        """Check a slow call for failed calls and silent workers. Returns lost workers by rank, with reasons."""
        ended = self._actors.ended(list(calls.values()), least=len(calls), timeout=0)
        for call in ended:
            try:
                self._actors.results([call])
            except (RayActorError, RayTaskError) as error:
                return self._explained(calls, error)
        if gone := self._gone():
            return gone
        # A worker that has finished it may run the call that was begun after it.
        waiting = {number for number, call in calls.items() if call not in ended}
        silent = [one for one in self._pulse.lost(receiving=bool(ended)) if one.place in waiting]
        never = [number for number in self._pulse.never_heard() if number in waiting]
        if silent and never:
            raise self._cannot_start(never)
        return {one.place: one.told for one in silent}

    def _gone(self) -> dict[int, str]:
        """Workers whose process has ended, if visible from this host. Ray reports it later."""
        return {
            number: "died"
            for number, member in self._members.items()
            if member.process is not None and member.process.has_ended()
        }

    def _explained(self, calls: Mapping[int, Any], error: Exception) -> dict[int, str]:
        """Find the lost workers after a failed call, by rank, with reasons. Raises an error that is the job's own
        fault.

        When a worker dies, its peers' exchanges may fail a moment before its death is known.
        """
        found, waiting = Causes(), dict(calls)
        until = time.monotonic() + self._timeout + LOOK  # a silent worker has been silent since then, or for longer
        while True:
            ended = self._actors.ended(list(waiting.values()), least=1, timeout=SOON) if waiting else ()
            for number in [number for number, call in waiting.items() if call in ended]:
                self._take_in(found, number, waiting.pop(number))
            found.died |= {number: told for number, told in self._gone().items() if number not in found.died}
            # A worker that lost a connection does not know the cause; the end of a node is known after a while.
            found.silent = {one.place: one.told for one in self._pulse.lost() if one.place in waiting}
            if found.died or (found.silent and not found.own) or time.monotonic() > until:
                break
            if found.own or not waiting:  # possibly because of a worker whose end is not known yet
                until = min(until, time.monotonic() + GRACE)
            if not waiting:
                time.sleep(SOON)
        if found.own and not found.died:
            self._judge(found.own, calls, error)
        begins = self.generation == 1 and not any(self._members[number].process for number in calls)
        if begins and found.raised and not found.lost:  # they have not met yet, and other workers would not meet either
            raise EngineError(str(next(iter(found.raised.values())))) from error
        return found.lost or found.consequences(list(waiting), self._pulse.waits())

    def _take_in(self, found: Causes, number: int, call: Any) -> None:
        """Record the outcome of a call that has ended."""
        try:
            self._actors.results([call])
        except RayActorError as death:
            reason = never_made(death)
            if reason and self.generation == 1:
                raise JobError(
                    f"cluster: expected {self.ranks[number]} to start, got {reason}; install on every node "
                    "what this host has, or send it along (ray job submit --working-dir)"
                ) from death
            found.died[number] = f"died, before it was made: {reason}," if reason else "died"
        except RayTaskError as failure:
            found.raised[number] = failure.cause

    def _judge(self, raised: Mapping[int, BaseException], calls: Mapping[int, Any], error: Exception) -> None:
        """Raise a worker's error if another worker in its place would raise it again.

        This holds for an error that all workers raise at once, an error that recurs after a replacement, and every
        error of incr other than EngineError.
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
        """End the generation: dismiss lost workers, and let the others end their current and begun calls."""
        self._dismiss(lost)
        self._store.set(ended_key(self.generation), "")
        _, ahead = self._ahead
        self._ahead = "", {}
        # A worker that has finished the call begun after this one has finished this one too.
        others = {number: ahead.get(number, call) for number, call in calls.items() if number in self._members}
        if not others:
            return
        ended = self._actors.ended(list(others.values()), least=len(others), timeout=self._timeout)
        dead = [number for number, call in others.items() if call not in ended]
        for number, call in others.items():
            if call in ended:
                try:
                    self._actors.results([call])
                except RayActorError:
                    dead.append(number)
                except RayTaskError:
                    pass  # it has seen the end of its generation
        self._dismiss(dead)

    def _dismiss(self, numbers: Iterable[int], *, lost: bool = True) -> None:
        """End the replicas of workers that are lost or no longer needed."""
        replicas = {self.ranks[number].replica for number in numbers}
        for number, rank in enumerate(self.ranks) if replicas else ():
            if rank.replica in replicas and number in self._members:
                member = self._members.pop(number)
                if lost and member.process is not None:
                    member.process.kill()  # Ray asks a process to end, and a stopped process does not react
                self._actors.end(member.actor)

    # -- messages ------------------------------------------------------------------------------------------------

    def _named(self, numbers: Iterable[int]) -> str:
        return ", ".join(str(self.ranks[number]) for number in numbers)

    def _tell_of_slow_start(self) -> bool:
        never = self._pulse.never_heard()
        if never:
            log.warning("cluster: waiting for %s to start", self._named(never))
        return True

    def _cannot_start(self, never: Sequence[int]) -> NoRoom:
        need, free = self._actors.need, self._actors.free()
        return NoRoom(
            f"cluster: {self._named(never)} did not start within {self._pulse.start:g} s; the job needs "
            f"{len(self.ranks)} workers with {need} each, and Ray has room for {free:g} more; "
            "lower cluster.replicas or cluster.shards, or add nodes"
        )
