"""Where workers live: actors on Ray, and all that the driver asks of it.

The engine and its pool know Ray through this alone, and by its errors; so something else can stand in for it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

import ray
from ray.exceptions import RayActorError

from cluster._processes import Process
from cluster._rank import Rank
from cluster._ray_metrics import Exported, Exports
from cluster._ray_privates import draining_nodes, is_placed
from cluster._worker import ShardWorker
from cluster._worker_messages import Setup
from cluster.session import Session, require_ray
from incr_core.errors import EngineError

if TYPE_CHECKING:
    from incr_core.job import ClusterSection, Job

__all__ = ["Actors", "RayActors", "never_made", "on_ray"]


class Actors(Protocol):
    """A place where workers live, each a `ShardWorker` that is called from here.

    host: the address under which they reach this process. node: the one that this process is on. need: what each of
    them takes, in words.
    """

    host: str
    node: str
    need: str

    def require(self) -> None:
        """EngineError where the place is gone."""

    def make(self, name: str) -> Any:
        """A worker, which starts now."""

    def end(self, actor: Any) -> None:
        """End a worker, whatever it is at."""

    def call(self, actor: Any, method: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Begin a call: the worker comes to it when it is done with those before."""

    def results(self, calls: Sequence[Any], timeout: float | None = None) -> list[Any]:
        """What calls return; raises, as Ray does, GetTimeoutError, RayActorError and RayTaskError."""

    def ended(self, calls: Sequence[Any], least: int, timeout: float) -> Collection[Any]:
        """Those calls that have ended, when `least` of them have, or after so many seconds."""

    def shared(self, value: Any) -> Any:
        """What to pass to many workers as an argument in place of a value, so that it is packed once."""

    def placed(self, actor: Any) -> bool:
        """Whether an actor that has not answered yet has room, and only starts."""

    def free(self) -> float:
        """For how many workers there is room now."""

    def total(self) -> float:
        """For how many there is at all; EngineError where there is no node any more."""

    def draining(self) -> set[str]:
        """The ids of the nodes that are about to leave."""

    def exports(self, run: str) -> Exports:
        """Where to tell what becomes of the run in this directory."""

    def close(self) -> None:
        """Leave the place. May be called twice."""


class RayWorker(ShardWorker):
    """A worker as Ray keeps it."""

    def build(self, rank: Rank, key: str, generation: int, run: Setup) -> Process:
        """Take a rank; the process returned knows its node."""
        made = super().build(rank, key, generation, run)
        return replace(made, node=ray.get_runtime_context().get_node_id())


class RayActors:
    """Actors on the Ray at an address, or on one of our own (`Session`).

    slots: CPUs of one of our own. gpus: what a worker takes of a GPU, rather than a CPU; 0: a CPU.
    """

    def __init__(self, address: str | None, slots: int, *, gpus: float = 0.0) -> None:
        self._session = Session(address, slots)
        self.host = self._session.host
        self.node: str = ray.get_runtime_context().get_node_id()
        self.need = "a CPU" if not gpus else "a GPU" if gpus == 1 else f"{gpus:g} of a GPU"
        self._resource, self._each = ("GPU", gpus) if gpus else ("CPU", 1.0)
        # A worker that died is not restarted by Ray: who takes its place, and when, is decided here.
        self.kind = ray.remote(num_cpus=int(not gpus), num_gpus=gpus, max_restarts=0)(RayWorker)
        # A namespace of its own: those of an earlier process of this run may not have ended yet.
        self._namespace = f"incr {uuid4().hex[:8]}"

    def require(self) -> None:
        """EngineError where this process is connected to no Ray any more."""
        require_ray()

    def make(self, name: str) -> Any:
        """An actor of that name."""
        return self.kind.options(name=name, namespace=self._namespace).remote()

    def end(self, actor: Any) -> None:
        """Kill an actor; where Ray has stopped, it has ended with it."""
        if ray.is_initialized():
            ray.kill(actor, no_restart=True)

    def call(self, actor: Any, method: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """A reference to what it will return."""
        return getattr(actor, method).remote(*arguments, **options)

    def results(self, calls: Sequence[Any], timeout: float | None = None) -> list[Any]:
        """As soon as one has failed, its error."""
        results: list[Any] = ray.get(list(calls), timeout=timeout)
        return results

    def ended(self, calls: Sequence[Any], least: int, timeout: float) -> Collection[Any]:
        """As many as there are, failed ones too."""
        ready, _ = ray.wait(list(calls), num_returns=least, timeout=timeout)
        if len(ready) < len(calls):
            ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return set(ready)

    def shared(self, value: Any) -> Any:
        """A reference to it in the object store."""
        return ray.put(value)

    def placed(self, actor: Any) -> bool:
        """By what Ray's GCS knows of it."""
        return is_placed(actor)

    def free(self) -> float:
        """By what Ray counts."""
        found: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        return round(found.get(self._resource, 0.0) / self._each, 6)  # 0.3 / 0.1 is just below 3

    def total(self) -> float:
        """Of all nodes that are alive."""
        if not any(node["Alive"] for node in ray.nodes()):  # type: ignore[no-untyped-call]
            raise EngineError("Ray has no node any more: the raylet of this host is gone")
        found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return round(found.get(self._resource, 0.0) / self._each, 6)  # 0.3 / 0.1 is just below 3

    def draining(self) -> set[str]:
        """Those that Ray drains, as after a notice of preemption."""
        return draining_nodes()

    def exports(self, run: str) -> Exports:
        """Ray exports it to Prometheus."""
        return Exported(run)

    def close(self) -> None:
        """Leave Ray, and end it if it is our own."""
        self._session.close()


def on_ray(job: Job) -> RayActors:
    """Actors for the workers of a job."""
    settings = job.cluster
    gpus = settings.gpus if job.learner.device.startswith("cuda") else 0.0
    return RayActors(settings.address, slots_of(settings), gpus=gpus)


def slots_of(settings: ClusterSection) -> int:
    """How many CPUs a Ray of our own says it has: as many as there are to be workers, in a range as there are cores."""
    members = settings.members
    most = members.most
    if not members.fixed and not members.log:
        most = min(most, max(members.least, (os.cpu_count() or 1) // settings.shards))
    return most * settings.shards + settings.spares


def never_made(death: RayActorError) -> str:
    """Why an actor never lived: a package that its node lacks, say; empty where it did."""
    if "creation task" not in str(death):
        return ""
    return str(death).strip().splitlines()[-1].strip()
