"""The section [federated] of a job file: how clients learn together."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from incr_core.job._field_types import Duration
from incr_core.job._privacy import ClientPrivacy, ServerPrivacy
from incr_core.job._section import Named, Section

__all__ = ["AvailabilitySection", "FederatedSection"]


class AvailabilitySection(Section):
    """The presence of simulated clients, and their answers: by a trace, or at random."""

    engines = ("federated",)

    trace: str | None = None
    """A file (CSV, Parquet or JSONL) with a row for each time that a client is present: `client`, `start`, `stop`, and
    optionally `rows_per_second`.
    """
    present: float = Field(1.0, ge=0.0, le=1.0)
    """The probability that a client is present in an increment."""
    dropout: float = Field(0.0, ge=0.0, le=1.0)
    """The probability that a client that is asked to learn does not answer."""
    rows_per_second: float | None = Field(None, gt=0.0)
    """The median speed of clients. One that would take longer than `federated.round_timeout` is late."""
    spread: float = Field(0.0, ge=0.0)
    """The standard deviation of the logarithm of speeds."""
    seed: int | None = None
    """The seed of these draws. Default: `learner.seed`."""

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

    engines = ("federated",)

    clients: str = "blocks:2"
    """Simulated only. A column (a client for each value), `"hash:COLUMN:N"`, `"blocks:N"`, or N clients that are
    drawn: `"iid:N"`, `"dirichlet:N:ALPHA"`, `"labels:N:K"`, `"shards:N:S"`, `"quantity:N:ALPHA"`,
    `"time:N:DURATION"`; `"list:FILE"`: clients that a file lists
    ([what each means](federated.md#who-has-which-rows)).
    """
    rounds: int = Field(1, ge=1)
    """Rounds in an increment."""
    fraction: float = Field(1.0, gt=0.0, le=1.0)
    """The share of the clients with rows that take part in a round."""
    clients_per_round: int | None = Field(None, ge=1)
    """The number of clients that take part in a round, in place of `fraction`."""
    select: Literal["uniform", "rows", "availability"] = "uniform"
    """[Which clients are drawn](federated.md#who-learns-in-a-round) for a round. `"uniform"`: with equal chances.
    `"rows"`: by the number of rows to learn. `"availability"`: by the share of orders that each has answered.
    """
    availability: AvailabilitySection | None = None
    """Simulated only. Which clients are present, and which answer in time, by a trace file or by chance:
    `"trace.csv"`, or a table such as `{present = 0.8, dropout = 0.05}` ([what its keys
    mean](federated.md#who-is-there-and-who-answers-in-time)).
    """
    held_out: list[str] = Field(default_factory=list)
    """Names of clients, or owners, that never learn: the model is [evaluated on their
    rows](federated.md#clients-that-only-evaluate).
    """
    backend: Literal["grid", "flower"] = "grid"
    """Simulated only. `"grid"`: resident actors. `"flower"`: the simulation engine of Flower."""
    workers: int = Field(2, ge=1)
    """Simulated only. Processes that hold the clients."""
    batch_clients: int = Field(0, ge=0)
    """Simulated only. At most so many clients are learned as one batch, where model, optimiser and strategies allow it
    ([many small clients](federated.md#many-small-clients)). 0: each by itself.
    """
    stateless: bool = False
    """Simulated only, with `batch_clients`. Clients keep nothing from round to round but their rows: no optimiser
    moments, no memory, no record. Processes then hold blocks of clients with one reader and one learner each, so
    [100,000 clients](federated.md#a-hundred-thousand-clients) cost about what their rows cost.
    """
    aggregation: Named = Named(name="mean")
    """How the server merges the updates of a round. `"mean"`: by rows. Robust to a `share` of hostile clients: `{name
    = "trimmed_mean", share = 0.2}`, `"median"`, `{name = "krum", share = 0.2, keep = 1}`, `"multi_krum"`. Means
    with other weights: `"fednova"` (less for each step), `{name = "qfedavg", q = 0.1}` (more for a larger loss),
    `"fedexp"` (a longer step, the more the clients' changes differ). Or a class of your own as `"module:Class"`. The
    outer step follows.
    """
    wire: Literal["float32", "float16", "int8"] = "float32"
    """The format of updates from clients to the server: weights as they are, or the difference from the anchor of the
    round, in blocks of 256 with a scale each, rounded to `"float16"` (half of the bytes) or `"int8"` (a quarter).
    Weights that merge by their mean are rounded; buffers, counts, statistics, tables of ids and the state of strategies
    travel unchanged ([compression](federated.md#compressed-updates)).
    """
    top_k: float | None = Field(None, gt=0.0, le=0.25)
    """The share of the numbers of an update that are sent, those that changed most: `0.01` is 1%. A number takes four
    bytes for its place, and those of `wire` for its value. Default: all numbers.
    """
    error_feedback: bool = True
    """With `wire` or `top_k`: each client keeps what its update left out, on its own disk, and adds it to its next
    update.
    """
    max_share: float | None = Field(None, gt=0.0, le=1.0)
    """The largest weight of one client in a mean by rows. What is cut goes to the others; with too few clients for
    that, all count alike. Default: no limit.
    """
    personal: list[str] = Field(default_factory=list)
    """Weights that stay with each client, by name pattern (`["layers.4"]`, `["*norm*"]`):
    [personalisation](federated.md#weights-of-a-clients-own).
    """
    superlink: str | None = Field(None, pattern=r"^\S+:\d+$")
    """Owners only. `"HOST:PORT"` of a Flower SuperLink, whose clients own their rows ([federated runs](federated.md)).
    """
    certificates: str | None = None
    """Owners only. A file with the certificate that signed the SuperLink's. Default: no TLS."""
    min_clients: int = Field(1, ge=1)
    """How many owners must be present, at the start and at every increment; also the smallest number of clients,
    simulated or not, that is drawn where not all take part.
    """
    round_timeout: Duration = "10m"
    """How long a client may take for an answer."""
    accept_failures: bool = True
    """Owners only. Go on without an owner that fails, does not answer, or sends an invalid answer. Its rows wait until
    it returns.
    """
    checks: bool = True
    """Owners only. Reject an update that moves the weights, or running statistics, more than five times as far as the
    median of the round's owners, by rows. It needs three owners.
    """
    privacy: ServerPrivacy | None = None
    """What the server promises about its clients: [differential privacy](federated.md#differential-privacy)."""
    client_privacy: ClientPrivacy | None = None
    """Simulated only. What each client promises, with the keys of `[privacy]` in an owner's file."""

    @property
    def owned(self) -> bool:
        """Whether the rows are with owners, on a SuperLink; else clients are simulated on one table."""
        return self.superlink is not None

    @property
    def compresses(self) -> bool:
        """Whether updates are rounded or thinned."""
        return self.wire != "float32" or self.top_k is not None

    @property
    def selects(self) -> bool:
        """Whether not all clients with rows take part in a round."""
        return self.fraction < 1.0 or self.clients_per_round is not None

    def block(self, clients: int) -> int:
        """The number of consecutive clients in one block, so that about `batch_clients` of them take part."""
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
            "wire or top_k": self.compresses,
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

    @model_validator(mode="after")
    def _updates_can_be_compressed(self) -> Self:
        if not self.error_feedback and not self.compresses:
            raise ValueError(
                "federated.error_feedback: expected wire or top_k too, got false alone; leave it out where updates "
                "travel unchanged"
            )
        if self.top_k is not None and self.aggregation.name in ("median", "trimmed_mean"):
            raise ValueError(
                f"federated.top_k: expected a mean or krum, got aggregation = {self.aggregation.name!r}, which merges "
                "each weight by itself and finds it unchanged at most clients; leave out one of the two, or use wire"
            )
        return self

    @field_validator("aggregation", mode="before")
    @classmethod
    def _aggregation_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value
