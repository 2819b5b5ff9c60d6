"""The tables of the job file that say how engines work together: [cluster] and [federated]."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from incr_core.job._field_types import Duration
from incr_core.job._privacy import ClientPrivacy, ServerPrivacy
from incr_core.job._replicas import Replicas
from incr_core.job._sections import Named, Section
from incr_core.rounds import Interval

__all__ = ["AvailabilitySection", "ClusterSection", "FederatedSection"]


class ClusterSection(Section):
    """Learning on Ray."""

    replicas: int | str | list[tuple[int, int]] = 2
    shards: int = Field(1, ge=1)
    average_every: str | Annotated[int, Field(strict=True, ge=0)] = 0
    pace: Literal["rows", "time"] = "rows"
    wire: Literal["float32", "float16", "int8"] = "float32"
    overlap: bool = False
    memory_scope: Literal["own", "all"] = "own"
    fragments: int = Field(1, ge=1)
    scale_lr: Literal["none", "sqrt", "linear"] = "none"
    partition: str = "blocks"
    gpus: float = Field(1.0, gt=0, le=1)
    address: str | None = None
    timeout: float = Field(30.0, gt=0)
    spares: int = Field(0, ge=0)
    max_failures: int = Field(10, ge=0)

    @field_validator("replicas")
    @classmethod
    def _some(cls, value: int | str | list[tuple[int, int]]) -> int | str | list[tuple[int, int]]:
        Replicas.of(value)
        return value

    @model_validator(mode="after")
    def _can_change(self) -> ClusterSection:
        if not self.members.fixed and self.partition != "blocks":
            raise ValueError(
                'expected partition = "blocks" where the number of replicas may change, since all rows of a value '
                f"stay with one replica, got {self.partition!r}"
            )
        return self

    @property
    def members(self) -> Replicas:
        """How many replicas there are, or may be."""
        return Replicas.of(self.replicas)

    def rate_of(self, replicas: int) -> float:
        """What the learning rate of each of so many replicas is multiplied by."""
        return {"none": 1.0, "sqrt": math.sqrt(replicas), "linear": float(replicas)}[self.scale_lr]

    @property
    def interval(self) -> Interval:
        """What lies between two exchanges."""
        return Interval.of(self.average_every)

    @field_validator("average_every")
    @classmethod
    def _is_an_interval(cls, value: int | str) -> int | str:
        Interval.of(value)
        return value

    @model_validator(mode="after")
    def _overlaps_rounds(self) -> Self:
        if self.overlap and self.average_every == 0:
            raise ValueError(
                "cluster.overlap: expected several exchanges in an increment, of which the next round hides one, "
                "got average_every = 0; set it to a number of steps or rows, or leave overlap out"
            )
        return self

    @model_validator(mode="after")
    def _shards_have_their_own(self) -> Self:
        if self.gpus < 1 and self.shards > 1:
            raise ValueError(
                f"cluster.gpus: expected 1 where replicas are sharded, since each shard needs a GPU of its own, got "
                f"{self.gpus:g}; leave it out, or set cluster.shards = 1"
            )
        return self

    @field_validator("gpus")
    @classmethod
    def _shares_fill_a_gpu(cls, value: float) -> float:
        sharing = round(1 / value)
        # No worker has parts of two GPUs; of each, Ray hands out ten-thousandths.
        if not 0 <= 1 - sharing * value < value / 100:
            most = int(1 / value)
            fitting = " or ".join(f"{math.floor(10_000 / count) / 10_000:g}" for count in (most, most + 1))
            raise ValueError(
                f"expected one part of 2, 3, ... that a GPU has, got {value:g}, of which a GPU has {most} and a rest "
                f"that no worker can take; set it to {fitting}"
            )
        return value

    @model_validator(mode="after")
    def _fragments_take_turns(self) -> Self:
        if self.fragments > 1 and self.average_every == 0:
            raise ValueError(
                "cluster.fragments: expected several exchanges in an increment, in which fragments take turns, "
                f"got {self.fragments} and average_every = 0; set that to a number of steps or rows, or leave this out"
            )
        if self.fragments > 1 and self.overlap:
            raise ValueError(
                f"cluster.fragments: expected 1 with overlap = true, got {self.fragments}; leave out one of the two: "
                "overlap hides an exchange, fragments make it smaller"
            )
        return self

    @model_validator(mode="after")
    def _paced_by_what_is_counted(self) -> Self:
        timed = self.interval.unit == "seconds"
        if timed != (self.pace == "time"):
            told = f"{self.average_every!r}".replace("'", '"')
            raise ValueError(
                f'cluster.pace: expected "time" with average_every = {told}, got "rows"; say so, since the clock then '
                "decides what is learned, and only the steps recorded in the metrics repeat a run"
                if timed
                else f'cluster.average_every: expected a duration such as "5s" with pace = "time", got {told}'
            )
        return self


class AvailabilitySection(Section):
    """Which simulated clients are there, and which answer: by a trace, or by chance."""

    trace: str | None = None
    present: float = Field(1.0, ge=0.0, le=1.0)
    dropout: float = Field(0.0, ge=0.0, le=1.0)
    rows_per_second: float | None = Field(None, gt=0.0)
    spread: float = Field(0.0, ge=0.0)
    seed: int | None = None

    @model_validator(mode="after")
    def _spreads_something(self) -> Self:
        if self.spread and self.rows_per_second is None:
            raise ValueError(
                f"federated.availability.spread: expected rows_per_second too, got {self.spread} alone; say the "
                "clients' median speed"
            )
        return self


class FederatedSection(Section):
    """Learning on Flower clients."""

    clients: str = "blocks:2"
    rounds: int = Field(1, ge=1)
    fraction: float = Field(1.0, gt=0.0, le=1.0)
    clients_per_round: int | None = Field(None, ge=1)
    select: Literal["uniform", "rows", "availability"] = "uniform"
    availability: AvailabilitySection | None = None
    held_out: list[str] = Field(default_factory=list)
    backend: Literal["grid", "flower"] = "grid"
    workers: int = Field(2, ge=1)
    batch_clients: int = Field(0, ge=0)
    stateless: bool = False
    aggregation: Named = Named(name="mean")
    max_share: float | None = Field(None, gt=0.0, le=1.0)
    personal: list[str] = Field(default_factory=list)
    superlink: str | None = Field(None, pattern=r"^\S+:\d+$")
    certificates: str | None = None
    min_clients: int = Field(1, ge=1)
    round_timeout: Duration = "10m"
    accept_failures: bool = True
    checks: bool = True
    privacy: ServerPrivacy | None = None
    client_privacy: ClientPrivacy | None = None

    @property
    def owned(self) -> bool:
        """Whether the rows are with owners, on a SuperLink; else clients are simulated on one table."""
        return self.superlink is not None

    @property
    def selects(self) -> bool:
        """Whether not all clients with rows take part in a round."""
        return self.fraction < 1.0 or self.clients_per_round is not None

    def block(self, clients: int) -> int:
        """How many consecutive ones, of so many, live in one process, so that about `batch_clients` take part."""
        share = self.fraction if self.clients_per_round is None else min(1.0, self.clients_per_round / clients)
        return math.ceil(self.batch_clients / share)

    @model_validator(mode="after")
    def _selects_one_way(self) -> Self:
        if self.clients_per_round is not None and self.clients_per_round < self.min_clients:
            raise ValueError(
                f"federated.clients_per_round: expected at least federated.min_clients, got {self.clients_per_round} "
                f"and {self.min_clients}; a round has never fewer than min_clients, so raise the one or lower the other"
            )
        if self.clients_per_round is not None and self.fraction < 1.0:
            raise ValueError(
                f"federated.clients_per_round: expected it or fraction, got {self.clients_per_round} and "
                f"{self.fraction}; leave out one of the two"
            )
        if self.select != "uniform" and not self.selects:
            raise ValueError(
                f'federated.select: expected fraction or clients_per_round with "{self.select}", got neither, so that '
                "all clients with rows take part; say how many are to"
            )
        return self

    @field_validator("availability", mode="before")
    @classmethod
    def _trace_by_name(cls, value: Any) -> Any:
        return {"trace": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _absence_is_simulated(self) -> Self:
        if self.availability is not None and self.owned:
            raise ValueError(
                "federated.availability: expected simulated clients, got owners on a SuperLink, who come and go as "
                "they do; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _batches_are_simulated(self) -> Self:
        if self.batch_clients and (self.owned or self.backend != "grid"):
            elsewhere = "clients are with their owners" if self.owned else 'backend = "flower" is'
            raise ValueError(
                f"federated.batch_clients: expected 0 where {elsewhere}, got {self.batch_clients}; leave it out: "
                'clients can be learned as one batch in the processes of backend = "grid"'
            )
        return self

    @model_validator(mode="after")
    def _stateless_clients_keep_nothing(self) -> Self:
        if not self.stateless:
            return self
        if not self.batch_clients:
            raise ValueError(
                "federated.stateless: expected batch_clients too, got none; say how many clients are learned as one "
                "batch, such as batch_clients = 100"
            )
        kept = {
            "availability": self.availability is not None,
            "held_out": bool(self.held_out),
            "personal": bool(self.personal),
            "max_share": self.max_share is not None,
            "privacy": self.privacy is not None,
            "client_privacy": self.client_privacy is not None,
            'select = "availability"': self.select == "availability",
            f"aggregation {self.aggregation.name}": self.aggregation.name != "mean",
        }
        if said := next((name for name, there in kept.items() if there), None):
            raise ValueError(
                f"federated.stateless: expected clients of which nothing is kept or known but their rows, got {said}; "
                "leave out one of the two"
            )
        return self

    @model_validator(mode="after")
    def _a_promise_can_be_kept(self) -> Self:
        if self.privacy is not None and (self.clients_per_round is not None or self.select != "uniform"):
            raise ValueError(
                "federated.privacy: expected clients that are drawn each by itself, with the probability "
                "federated.fraction, which the account counts by, got clients_per_round or select; leave them out"
            )
        if self.privacy is not None and self.max_share is not None:
            raise ValueError(
                "federated.privacy: expected no max_share, since all updates count alike in a private mean, got "
                f"{self.max_share}; leave it out"
            )
        if self.privacy is not None and self.aggregation.name != "mean":
            raise ValueError(
                f'federated.privacy: expected aggregation = "mean", of which is known what one client can change, got '
                f'"{self.aggregation.name}"; leave out one of the two'
            )
        if self.client_privacy is not None and self.owned:
            raise ValueError(
                "federated.client_privacy: expected simulated clients, got owners (superlink), who each say in a file "
                "of their own ([privacy]) what they promise; leave it out"
            )
        if self.client_privacy is not None and self.batch_clients:
            raise ValueError(
                f"federated.batch_clients: expected 0 with client_privacy, got {self.batch_clients}; leave it out: "
                "clients whose rows are hidden are learned one by one"
            )
        return self

    @field_validator("aggregation", mode="before")
    @classmethod
    def _aggregation_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value
