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
from incr_core.data.sources import SETTLE, CsvFormat
from incr_core.data.timeline import MAX_LEAP
from incr_core.data.times import SECOND, duration
from incr_core.drift import ACTIONS
from incr_core.errors import ArgumentError
from incr_core.learner import MOST_PASSES

__all__ = [
    "AlertsSection",
    "DriftSection",
    "FeaturesSection",
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


class CsvSection(Section):
    """How CSV files are written."""

    delimiter: str = ","
    decimal: str = "."
    thousands: str | None = None


class StreamSection(Section):
    """Where rows come from and what an increment is."""

    path: str = Field("", min_length=1)
    format: Literal["parquet", "arrow", "csv", "jsonl"] | None = None
    csv: CsvSection | None = None
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
    def file_format(self) -> str | None:
        """The format of the stream's files, with how CSV is written; None where their names tell."""
        return self.format if self.csv is None else CsvFormat(**self.csv.model_dump())

    @model_validator(mode="after")
    def _csv_is_csv(self) -> Self:
        if self.csv is not None:
            if self.format not in (None, "csv"):
                raise ValueError(
                    f'stream.csv: expected stream.format = "csv" or none, got "{self.format}"; leave one out'
                )
            try:
                CsvFormat(**self.csv.model_dump())
            except ArgumentError as error:
                raise ValueError(f"stream.{error}") from None
        return self

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
    text: list[str] = []
    text_buckets: int = Field(2**16, ge=2, le=2**30)
    text_words: int | None = Field(None, ge=1, le=4096)
    date: list[str] = []
    exclude: list[str] = []
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

    kind: Literal["mlp", "auto"] = "mlp"
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


class HeadSection(Section):
    """A last layer that is worked out, and not learned by steps."""

    name: Literal["ridge"] = "ridge"
    features: int = Field(2000, ge=1, le=2**15)
    penalty: float = Field(10.0, gt=0, lt=math.inf)
    decay: float = Field(0.0, ge=0, lt=1)
    scale: float = Field(1.0, gt=0, lt=math.inf)
    bias: float = Field(1.0, ge=0, lt=math.inf)


class BalanceSection(Section):
    """What rows of rare classes count, and the class shares that predictions are for."""

    strength: float = Field(0.5, ge=0, le=1)
    prior: Literal["stream", "uniform"] = "stream"
    half_life: float | None = Field(None, gt=0, lt=math.inf)


class LearnerSection(Section):
    """The update rule."""

    objective: str
    loss: Named | None = None
    balance: BalanceSection | None = None
    head: HeadSection | None = None
    optimizer: Named = Named.model_validate({"name": "adam", "lr": 0.003})
    schedule: Named | None = None
    groups: list[GroupSection] = []
    batch_size: int = Field(32, ge=1)
    accumulate: int = Field(1, ge=1)
    epochs: Literal["auto"] | Annotated[int, Field(strict=True, ge=1)] = 1
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

    @property
    def most_epochs(self) -> int:
        """Passes over an increment that is no warm start, at most."""
        return MOST_PASSES if self.epochs == "auto" else self.epochs

    @field_validator("loss", "schedule", "head", mode="before")
    @classmethod
    def _others_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("balance", mode="before")
    @classmethod
    def _balance_or_not(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

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
