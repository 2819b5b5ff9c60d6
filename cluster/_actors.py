"""Ray actors as the place where workers run, and every operation that the driver needs from Ray.

The engine and its pool use Ray only through this module and through Ray's exceptions. Tests can replace it.
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
    """A place where workers run. Each worker is a `ShardWorker` that this process calls.

    Args:
        host: Address under which workers reach this process.
        node: Node of this process.
        need: Resources of one worker, as text for messages.
    """

    host: str
    node: str
    need: str

    def require(self) -> None:
        """Raise EngineError if the place is gone."""

    def make(self, name: str) -> Any:
        """Start a worker and return it."""

    def end(self, actor: Any) -> None:
        """End a worker at once."""

    def call(self, actor: Any, method: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Begin a call. The worker runs its calls in order."""

    def results(self, calls: Sequence[Any], timeout: float | None = None) -> list[Any]:
        """Return the results of calls. Raises GetTimeoutError, RayActorError and RayTaskError as Ray does."""

    def ended(self, calls: Sequence[Any], least: int, timeout: float) -> Collection[Any]:
        """Return the calls that have ended, as soon as `least` have ended or the given seconds have passed."""

    def shared(self, value: Any) -> Any:
        """Return a stand-in for a value that many workers receive, so that the value is serialised once."""

    def placed(self, actor: Any) -> bool:
        """Return whether an actor that has not answered yet has a place and is starting."""

    def free(self) -> float:
        """Number of workers for which there is room now."""

    def total(self) -> float:
        """Number of workers for which there is room in total. Raises EngineError if there is no node."""

    def draining(self) -> set[str]:
        """Ids of the nodes that are about to leave."""

    def exports(self, run: str) -> Exports:
        """Return the metrics to which the progress of the run in this directory is reported."""

    def close(self) -> None:
        """Leave the place. May be called twice."""


class RayWorker(ShardWorker):
    """A worker as a Ray actor."""

    def build(self, rank: Rank, key: str, generation: int, run: Setup) -> Process:
        """Take a rank. The returned process includes its node."""
        made = super().build(rank, key, generation, run)
        return replace(made, node=ray.get_runtime_context().get_node_id())


class RayActors:
    """Actors on the Ray cluster at an address, or on a Ray started by this process (`Session`).

    Args:
        slots: CPUs of a Ray started by this process.
        gpus: Share of a GPU for each worker; 0 gives it a CPU instead.
    """

    def __init__(self, address: str | None, slots: int, *, gpus: float = 0.0) -> None:
        self._session = Session(address, slots)
        self.host = self._session.host
        self.node: str = ray.get_runtime_context().get_node_id()
        self.need = "a CPU" if not gpus else "a GPU" if gpus == 1 else f"{gpus:g} of a GPU"
        self._resource, self._each = ("GPU", gpus) if gpus else ("CPU", 1.0)
        # Ray does not restart a worker that died. The driver decides which process replaces it and when.
        self.kind = ray.remote(num_cpus=int(not gpus), num_gpus=gpus, max_restarts=0)(RayWorker)
        # A separate namespace: actors of an earlier process of this run may still be alive.
        self._namespace = f"incr {uuid4().hex[:8]}"

    def require(self) -> None:
        """Raise EngineError if this process is no longer connected to a Ray cluster."""
        require_ray()

    def make(self, name: str) -> Any:
        """Start an actor with this name."""
        return self.kind.options(name=name, namespace=self._namespace).remote()

    def end(self, actor: Any) -> None:
        """Kill an actor. If Ray has stopped, the actor has already ended."""
        if ray.is_initialized():
            ray.kill(actor, no_restart=True)

    def call(self, actor: Any, method: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Return a reference to the result."""
        return getattr(actor, method).remote(*arguments, **options)

    def results(self, calls: Sequence[Any], timeout: float | None = None) -> list[Any]:
        """Raise the first error as soon as one call fails."""
        results: list[Any] = ray.get(list(calls), timeout=timeout)
        return results

    def ended(self, calls: Sequence[Any], least: int, timeout: float) -> Collection[Any]:
        """Return all calls that have ended, including failed ones."""
        ready, _ = ray.wait(list(calls), num_returns=least, timeout=timeout)
        if len(ready) < len(calls):
            ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return set(ready)

    def shared(self, value: Any) -> Any:
        """Return a reference to the value in the object store."""
        return ray.put(value)

    def placed(self, actor: Any) -> bool:
        """Read the actor's state from Ray's GCS."""
        return is_placed(actor)

    def free(self) -> float:
        """Number of workers by Ray's count of free resources."""
        found: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        return round(found.get(self._resource, 0.0) / self._each, 6)  # 0.3 / 0.1 is slightly below 3

    def total(self) -> float:
        """Number of workers on all nodes that are alive."""
        if not any(node["Alive"] for node in ray.nodes()):  # type: ignore[no-untyped-call]
            raise EngineError("Ray has no node any more: the raylet of this host is gone")
        found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return round(found.get(self._resource, 0.0) / self._each, 6)  # 0.3 / 0.1 is slightly below 3

    def draining(self) -> set[str]:
        """Nodes that Ray drains, for example after a notice of preemption."""
        return draining_nodes()

    def exports(self, run: str) -> Exports:
        """Return metrics that Ray exports to Prometheus."""
        return Exported(run)

    def close(self) -> None:
        """Disconnect from Ray, and stop it if this process started it."""
        self._session.close()


def on_ray(job: Job) -> RayActors:
    """Return the actors for the workers of a job."""
    settings = job.cluster
    gpus = settings.gpus if job.learner.device.startswith("cuda") else 0.0
    return RayActors(settings.address, slots_of(settings), gpus=gpus)


def slots_of(settings: ClusterSection) -> int:
    """Number of CPUs that a Ray started by this process declares: the number of workers, or of cores for a range."""
    members = settings.members
    most = members.most
    if not members.fixed and not members.log:
        most = min(most, max(members.least, (os.cpu_count() or 1) // settings.shards))
    return most * settings.shards + settings.spares


def never_made(death: RayActorError) -> str:
    """Return why an actor never started, for example a package that is missing on its node; "" if it started."""
    if "creation task" not in str(death):
        return ""
    return str(death).strip().splitlines()[-1].strip()
