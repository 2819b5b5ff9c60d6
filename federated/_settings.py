"""The engine of Flower clients with its settings, for Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

__all__ = ["Federated"]


@dataclass(frozen=True)
class Federated:
    """Learn inside Flower clients: `run(job, out, on=Federated(clients="carrier"))`.

    A setting of None keeps the value of the job's section `[federated]`. docs/job.md describes each.

    Example:
        >>> Federated(clients="carrier", rounds=2).settings()
        {'clients': 'carrier', 'rounds': 2}
    """

    name: ClassVar[str] = "federated"

    clients: str | None = None
    rounds: int | None = None
    fraction: float | None = None
    clients_per_round: int | None = None
    select: Literal["uniform", "rows", "availability"] | None = None
    held_out: list[str] | None = None
    availability: str | Mapping[str, Any] | None = None
    backend: Literal["grid", "flower"] | None = None
    workers: int | None = None
    batch_clients: int | None = None
    stateless: bool | None = None
    aggregation: str | Mapping[str, Any] | None = None
    wire: Literal["float32", "float16", "int8"] | None = None
    top_k: float | None = None
    error_feedback: bool | None = None
    max_share: float | None = None
    personal: list[str] | None = None
    superlink: str | None = None
    certificates: str | None = None
    min_clients: int | None = None
    round_timeout: str | None = None
    accept_failures: bool | None = None
    checks: bool | None = None
    privacy: Mapping[str, Any] | None = None
    client_privacy: Mapping[str, Any] | None = None

    def settings(self) -> Mapping[str, Any]:
        """The keys of [federated] that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}
