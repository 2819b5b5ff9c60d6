"""The sections of a job file and the values they accept; `docs/job.md` says what each key does."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from incr_core._util import unknown
from incr_core.data.rates import Rate
from incr_core.data.sources import SETTLE
from incr_core.data.timeline import MAX_LEAP
from incr_core.data.times import SECOND, duration
from incr_core.drift import ACTIONS
from incr_core.job._privacy import ClientPrivacy, ServerPrivacy
from incr_core.job._replicas import Replicas
from incr_core.rounds import Interval

__all__ = [
    "AlertsSection",
    "ClusterSection",
    "DriftSection",
    "FeaturesSection",
    "FederatedSection",
    "GroupSection",
    "LearnerSection",
    "ModelSection",
    "Named",
    "PublishSection",
    "RateSection",
    "ReviewSection",
    "Section",
    "StreamSection",
    "TrackSection",
]


class Section(BaseModel):
    """A table of the job file; keys it does not know are refused."""

    model_config = ConfigDict(extra="forbid")


class Named(BaseModel):
    """A table that names a thing and gives its arguments beside the name."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """All keys but the name."""
        return dict(self.model_extra or {})


class StreamSection(Section):
    """Where rows come from and what an increment is."""

    path: str = Field("", min_length=1)
    format: Literal["parquet", "arrow", "csv", "jsonl"] | None = None
    order: Literal["time", "file"] = "time"
    predict_at: str | None = None
    label_at: str | None = None
    every: str | Annotated[int, Field(strict=True)] = "file"
    warm_start: str | Annotated[int, Field(strict=True)] | None = None
    time_zone: str | None = None
    max_leap: str = MAX_LEAP
    settle: str = SETTLE
    key: str | Annotated[list[str], Field(min_length=1)] | None = None
    key_window: str | Annotated[int, Field(strict=True)] | None = None

    @property
    def timed(self) -> bool:
        """Whether an increment is a tick of a clock."""
        return isinstance(self.every, str) and self.every != "file"

    @property
    def keys(self) -> list[str]:
        """The columns by which a row is known again."""
        return [self.key] if isinstance(self.key, str) else self.key or []

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        try:
            return value if value is None else ZoneInfo(value).key
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f'expected a time zone such as "Europe/Berlin" or "UTC", got {value!r}') from None


class RateSection(Section):
    """Features from labels already known: how often, lately, among rows with the same keys.

    by: columns, or several lists of columns; window: a duration, or several. Each pair of the two is one rate.
    """

    by: list[str] | list[list[str]] = []
    window: str | list[str]
    outcome: str | None = None
    known_at: str | None = None
    prior: float | None = None
    weight: float = Field(10.0, gt=0)

    def rates(self) -> list[Rate]:
        """The rates that the section stands for."""
        keys = [key for key in self.by if isinstance(key, list)] or [[str(key) for key in self.by]]
        windows = [self.window] if isinstance(self.window, str) else self.window
        named = self.outcome, self.known_at
        return [Rate(by, window, self.prior, self.weight, *named) for by in keys for window in windows]


class FeaturesSection(Section):
    """Which columns are what."""

    label: str | Annotated[list[str], Field(min_length=1)]
    numeric: list[str] = []
    categorical: list[str] = []
    item: list[str] = []
    weight: str | None = None
    task: str | None = None
    classes: list[str | int | float | bool] | None = None
    capacity: int | None = Field(None, ge=2)
    vocabulary: int | None = Field(None, ge=2, le=2**24)
    buckets: int = Field(1024, ge=2)
    widths: dict[str, Annotated[int, Field(ge=1)]] | None = None
    ranges: dict[str, tuple[float, float]] | None = None
    rate: list[RateSection] = []
    on_bad_row: Literal["fail", "quarantine"] = "fail"
    on_bad_file: Literal["fail", "quarantine"] | None = None

    @field_validator("ranges")
    @classmethod
    def _low_before_high(cls, value: dict[str, tuple[float, float]] | None) -> dict[str, tuple[float, float]] | None:
        for name, (low, high) in (value or {}).items():
            if not -math.inf < low < high < math.inf:
                raise ValueError(f"expected the least and the greatest number of {name}, got [{low:g}, {high:g}]")
        return value

    @property
    def tolerates_bad_files(self) -> bool:
        """Whether the run goes on without files that cannot be used."""
        return (self.on_bad_file or self.on_bad_row) == "quarantine"

    @property
    def labels(self) -> list[str]:
        """The label columns."""
        return [self.label] if isinstance(self.label, str) else self.label


class ModelSection(Section):
    """The model: the built-in one for tables, or anybody's factory; `adapt` changes it, in order, before it learns."""

    factory: str | None = None
    arguments: dict[str, Any] = {}
    inputs: dict[str, str | Annotated[list[str], Field(min_length=1)]] = {}
    hidden: list[Annotated[int, Field(ge=1)]] = [128, 64]
    embedding: int = Field(8, ge=1)
    dimension: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    rows: Literal["independent", "together"] | None = None
    adapt: list[Named] = []


class GroupSection(BaseModel):
    """Weights by name pattern, with settings of the optimiser of their own."""

    model_config = ConfigDict(extra="allow")

    match: str

    @property
    def arguments(self) -> dict[str, Any]:
        """All keys but the pattern."""
        return dict(self.model_extra or {})


class LearnerSection(Section):
    """The update rule."""

    objective: str
    loss: Named | None = None
    optimizer: Named = Named.model_validate({"name": "adam", "lr": 0.003})
    schedule: Named | None = None
    groups: list[GroupSection] = []
    batch_size: int = Field(32, ge=1)
    accumulate: int = Field(1, ge=1)
    epochs: int = Field(1, ge=1)
    warm_epochs: int | None = Field(None, ge=1)
    validation: float | None = Field(None, gt=0, lt=1)
    patience: int = Field(1, ge=1)
    shuffle: bool = True
    clip: float | None = Field(None, gt=0)
    seed: int = Field(0, ge=0, lt=2**63)
    threads: int = Field(1, ge=1, le=1024)
    device: str = "cpu"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    graphs: bool = False
    give_up_after: int = Field(3, ge=1)
    consolidate: Literal["increment", "task", "drift"] | Annotated[int, Field(strict=True, ge=1)] = "increment"
    frozen: bool = False

    @field_validator("loss", "schedule", mode="before")
    @classmethod
    def _others_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("optimizer", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        return {"name": "adam", **value} if isinstance(value, dict) else value


class DriftSection(Section):
    """A detector over what is known before it is learned, and what to do when it signals."""

    detector: Literal["adwin", "page_hinkley", "kswin", "ddm"] = "adwin"
    watch: str = "loss"
    columns: list[str] = []
    action: list[str] = ["alert"]
    rate: float = Field(3.0, gt=0)
    lasting: int = Field(5, ge=1)
    enlarge: float = Field(2.0, gt=1)
    block: int | None = Field(None, ge=1)
    warm_up: int = Field(32, ge=2)
    options: dict[str, float] = {}

    @field_validator("action", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("action")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for action in value:
            if action not in ACTIONS:
                raise ValueError(unknown("an action", action, ACTIONS))
        return value


class ReviewSection(Section):
    """Now and then a pass over rows of the history."""

    every: str | Annotated[int, Field(strict=True, ge=1)]
    rows: int = Field(5000, ge=1)


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
    held_out: list[str] = []
    backend: Literal["grid", "flower"] = "grid"
    workers: int = Field(2, ge=1)
    batch_clients: int = Field(0, ge=0)
    aggregation: Named = Named(name="mean")
    max_share: float | None = Field(None, gt=0.0, le=1.0)
    personal: list[str] = []
    superlink: str | None = Field(None, pattern=r"^\S+:\d+$")
    certificates: str | None = None
    min_clients: int = Field(1, ge=1)
    round_timeout: str = "10m"
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

    @field_validator("round_timeout")
    @classmethod
    def _is_a_duration(cls, value: str) -> str:
        duration(value, "federated.round_timeout")
        return value


class PublishSection(Section):
    """When versions are committed, how many are kept, and whether each is judged before it is served."""

    every: int = Field(1, ge=1)
    keep: int | None = Field(None, ge=1)
    gate: bool = False
    margin: float = Field(0.03, ge=0)
    patience: int = Field(14, ge=1)
    reference: int = Field(128, ge=1)
    states: int = Field(2, ge=2)
    on_hold: Literal["go_on", "rollback"] = "go_on"

    @model_validator(mode="after")
    def _holds_something(self) -> Self:
        if self.on_hold == "rollback" and not self.gate:
            raise ValueError('publish.on_hold: expected gate = true with "rollback", got false; set it')
        return self

    @property
    def keeps_older(self) -> bool:
        """Whether states may be kept of others than the last two versions."""
        return self.gate or self.states > 2


class TrackSection(Section):
    """Where else the metrics of increments are written."""

    tensorboard: bool = False


ALERTS = ("drift", "held", "promoted", "diverged", "quarantine", "stale", "worker lost", "rollback", "bad file")
"""What a person may be told of."""


class AlertsSection(Section):
    """What a person is told of while a run goes on, and how."""

    webhook: str | None = None
    secret: str | None = None
    log: bool = False
    on: list[str] = ["drift", "held", "diverged", "quarantine", "stale", "worker lost"]
    quarantine: float = Field(0.05, ge=0, lt=1)
    stale: str | None = None

    @property
    def stale_seconds(self) -> float | None:
        """Seconds without a version after which somebody is told; None: never."""
        return None if self.stale is None or "stale" not in self.on else duration(self.stale, "alerts.stale") / SECOND

    @field_validator("on")
    @classmethod
    def _is_known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in ALERTS:
                raise ValueError(unknown("an alert", name, ALERTS))
        return value

    @field_validator("stale")
    @classmethod
    def _is_a_duration(cls, value: str | None) -> str | None:
        if value is not None and duration(value, "alerts.stale") <= 0:
            raise ValueError(f'expected a duration above 0, such as "6h", got {value!r}')
        return value

    @field_validator("webhook")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            sound = False
        if not sound or value != value.strip() or not value.isascii() or any(sign < "!" for sign in value):
            raise ValueError("expected an address such as https://example.org/hook, got another text; correct it")
        if parts.username is not None or parts.password is not None:
            raise ValueError("expected an address without a password in it, which job.toml would show; take it out")
        return value

    @model_validator(mode="after")
    def _secret_is_elsewhere(self) -> Self:
        if self.secret is not None and not re.fullmatch(r"(env|file):.+", self.secret):
            raise ValueError(
                'alerts.secret: expected where it is, "env:NAME" or "file:PATH", got a text that may be the secret '
                "itself; put it there, and change it if others have seen it"
            )
        if self.secret is not None and self.webhook is None:
            raise ValueError("alerts.secret: expected alerts.webhook too, got none; name the address")
        return self
