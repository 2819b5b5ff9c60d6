"""The workers as one: call all of them, and end at once when one of them is lost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NoReturn

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from cluster.heartbeat import Pulse
from cluster.place import Place
from cluster.worker import ShardWorker
from incr_core.errors import EngineError, IncrError, JobError, WorkerLost

__all__ = ["Crew"]

LOOK = 1.0
"""Seconds between looks at who is alive, while a call takes long."""

GRACE = 3.0
"""Seconds in which a death becomes known after the first of its consequences."""


class Crew:
    """One Ray actor for every place, and calls to all of them at once.

    pulse: tells who is silent, by the order of places. gpu: whether each worker needs a GPU, rather than a CPU.
    """

    def __init__(self, places: Sequence[Place], pulse: Pulse, gpu: bool) -> None:
        self.places = places
        self.pulse = pulse
        self._need = "GPU" if gpu else "CPU"
        # A worker that died is not restarted: its peers could not go on with it from the middle of an increment.
        kind = ray.remote(num_cpus=int(not gpu), num_gpus=int(gpu), max_restarts=0)(ShardWorker)
        self._workers: list[Any] = [kind.remote(place) for place in places]

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of all workers with the same arguments; their results, by place."""
        return self.call_each(method, [arguments] * len(self.places))

    def call_each(self, method: str, arguments: Sequence[Sequence[Any]]) -> list[Any]:
        """Call a method of all workers, each with its own arguments; their results, by place.

        Raises WorkerLost as soon as one is dead or has long been silent, and what a worker itself raised.
        """
        calls = [getattr(worker, method).remote(*own) for worker, own in zip(self._workers, arguments, strict=True)]
        self.pulse.listen()
        while True:
            try:
                results: list[Any] = ray.get(calls, timeout=LOOK)
                return results
            except GetTimeoutError:
                self._look(calls)
            except (RayActorError, RayTaskError) as error:
                self._explain(calls, error)

    def _look(self, calls: Sequence[Any]) -> None:
        """Somebody takes long: has a call failed meanwhile, or is somebody silent?"""
        ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in ready:
            try:
                ray.get(call)
            except (RayActorError, RayTaskError) as error:
                self._explain(calls, error)
        if silent := self.pulse.silent():
            if never := self.pulse.never_heard():
                raise self._cannot_start(never)
            raise WorkerLost(f"{self._named(silent)} gave no sign of life")

    def _explain(self, calls: Sequence[Any], error: Exception) -> NoReturn:
        """One call has failed: raise its cause. When a worker dies, its peers' exchanges may fail a moment earlier."""
        lost: list[int] = []
        reason = ""
        raised: list[BaseException] = []
        waiting = list(calls)
        until = time.monotonic() + GRACE
        while waiting and not lost and (left := until - time.monotonic()) > 0:
            ready, waiting = ray.wait(waiting, timeout=left)
            for call in ready:
                try:
                    ray.get(call)
                except RayActorError as death:
                    lost.append(calls.index(call))
                    if "creation task" in str(death):  # it never lived: a package that its node lacks, say
                        reason = f", before it was made: {str(death).strip().splitlines()[-1].strip()},"
                except RayTaskError as failure:
                    raised.append(failure.cause)
            # An EngineError may be no more than a peer's view of a death that is not known yet.
            if any(isinstance(cause, IncrError) and not isinstance(cause, EngineError) for cause in raised):
                break
        if lost:
            raise WorkerLost(f"{self._named(lost)} died{reason}") from error
        raise next((cause for cause in raised if isinstance(cause, IncrError)), error)

    def _named(self, lost: Sequence[int]) -> str:
        return ", ".join(str(self.places[place]) for place in lost)

    def _cannot_start(self, never: Sequence[int]) -> JobError:
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        return JobError(
            f"cluster: {self._named(never)} did not start within {self.pulse.start:g} s; the job needs "
            f"{len(self.places)} workers with a {self._need} each, and Ray has {free.get(self._need, 0.0):g} more; "
            "lower cluster.replicas or cluster.shards, or add nodes"
        )

    def close(self) -> None:
        """End all workers; where Ray has stopped, they have ended with it."""
        for worker in self._workers if ray.is_initialized() else ():
            ray.kill(worker, no_restart=True)
        self._workers = []
