"""Choice of a run's engine: its name, or an object with its name and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from incr_core.engines import Engine, engine_named
from incr_core.errors import ArgumentError
from incr_core.job import Job

__all__ = ["EngineSettings", "engine_chosen"]


@runtime_checkable
class EngineSettings(Protocol):
    """An engine with settings: `cluster.Cluster(replicas=2)`, `federated.Federated(clients="carrier")`.

    Attributes:
        name: The engine's name, and that of its section in a job file.
    """

    name: ClassVar[str]

    def settings(self) -> Mapping[str, Any]:
        """The keys of the section that it sets. Other keys keep the job's values."""
        ...


def engine_chosen(job: Job, on: str | EngineSettings) -> tuple[type[Engine], Job]:
    """Return the engine, and the job with the engine's settings.

    Example:
        >>> job = Job.from_document({
        ...     "stream": {"path": "x.parquet"}, "features": {"label": "y"}, "learner": {"objective": "binary"}
        ... })
        >>> kind, same = engine_chosen(job, "local")
        >>> kind.__name__, same is job
        ('LocalEngine', True)
    """
    if isinstance(on, str):
        return engine_named(on), job
    if not isinstance(on, EngineSettings):
        raise ArgumentError(
            f"on: expected the name of an engine or its settings, such as cluster.Cluster(replicas=2), "
            f"got {type(on).__name__}"
        )
    kind = engine_named(on.name)
    document = job.document()
    section = {**document.get(on.name, {}), **on.settings()}
    return kind, job.changed({on.name: section})
