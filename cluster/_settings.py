"""Settings of the cluster engine for use in Python. Importing them does not import Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

__all__ = ["Cluster"]


@dataclass(frozen=True)
class Cluster:
    """Learn on Ray: `run(job, out, on=Cluster(replicas=2))`.

    Settings that are None keep the value of the job's section [cluster]. docs/job.md describes each one.

    Example:
        >>> Cluster(replicas="2..8").settings()
        {'replicas': '2..8'}
    """

    name: ClassVar[str] = "cluster"

    replicas: int | str | Sequence[Sequence[int]] | None = None
    shards: int | None = None
    average_every: int | str | None = None
    pace: Literal["rows", "time"] | None = None
    wire: Literal["float32", "float16", "int8"] | None = None
    overlap: bool | None = None
    memory_scope: Literal["own", "all"] | None = None
    fragments: int | None = None
    scale_lr: Literal["none", "sqrt", "linear"] | None = None
    partition: str | None = None
    gpus: float | None = None
    address: str | None = None
    timeout: float | None = None
    spares: int | None = None
    max_failures: int | None = None

    def settings(self) -> Mapping[str, Any]:
        """The keys of [cluster] that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}
