"""The job file: its sections, what they accept, and what is said when they do not."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from incr_core.adapt import ADAPTATIONS
from incr_core.errors import JobError
from incr_core.orders import ACTIONS
from incr_core.outer import OUTERS
from incr_core.rates import Rate
from incr_core.strategies import STRATEGIES

__all__ = ["JobFile", "unknown"]

RECENT = 5000
"""Rows kept to consolidate on, where that waits for a drift."""

OBJECTIVES = ("binary", "multiclass", "multilabel", "next_token", "ranking", "regression")


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

    path: str
    format: Literal["parquet", "arrow", "csv", "jsonl"] | None = None
    order: Literal["time", "file"] = "time"
    predict_at: str | None = None
    label_at: str | None = None
    every: str | Annotated[int, Field(strict=True)] = "file"
    warm_start: str | Annotated[int, Field(strict=True)] | None = None


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
    rate: list[RateSection] = []
    on_bad_row: Literal["fail", "quarantine"] = "fail"

    @property
    def labels(self) -> list[str]:
        """The label columns."""
        return [self.label] if isinstance(self.label, str) else self.label


class ModelSection(Section):
    """The model: the built-in one for tables, or anybody's factory; `adapt` changes it, in order, before it learns."""

    factory: str | None = None
    arguments: dict[str, Any] = {}
    hidden: list[Annotated[int, Field(ge=1)]] = [128, 64]
    embedding: int = Field(8, ge=1)
    dimension: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
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
                raise ValueError(f"{unknown(action, ACTIONS)}")
        return value


class ReviewSection(Section):
    """Now and then a pass over rows of the history."""

    every: str | Annotated[int, Field(strict=True, ge=1)]
    rows: int = Field(5000, ge=1)


class ClusterSection(Section):
    """Learning on Ray."""

    replicas: int = Field(2, ge=1)
    shards: int = Field(1, ge=1)
    average_every: int = Field(0, ge=0)
    pace: Literal["rows"] = "rows"
    partition: str = "blocks"
    address: str | None = None
    timeout: float = Field(60.0, gt=0)


class FederatedSection(Section):
    """Learning on Flower clients."""

    clients: str = "blocks:2"
    rounds: int = Field(1, ge=1)
    fraction: float = Field(1.0, gt=0.0, le=1.0)
    backend: Literal["grid", "flower"] = "grid"
    workers: int = Field(2, ge=1)


class PublishSection(Section):
    """When versions are committed, and how many are kept."""

    every: int = Field(1, ge=1)
    keep: int | None = Field(None, ge=1)


class TrackSection(Section):
    """Where else the metrics of increments are written."""

    tensorboard: bool = False


class JobFile(Section):
    """A whole job, as written.

    >>> job = JobFile.model_validate({
    ...     "name": "rain",
    ...     "stream": {"path": "rain.parquet", "every": 1000},
    ...     "features": {"label": "rained", "numeric": ["humidity"]},
    ...     "learner": {"objective": "binary"},
    ... })
    >>> job.learner.batch_size
    32
    """

    name: str = "job"
    root: str = "."
    stream: StreamSection
    features: FeaturesSection
    model: ModelSection = ModelSection()
    learner: LearnerSection
    strategy: list[Named] = []
    drift: list[DriftSection] = []
    review: ReviewSection | None = None
    outer: Named = Named(name="mean")
    cluster: ClusterSection = ClusterSection()
    federated: FederatedSection = FederatedSection()
    publish: PublishSection = PublishSection()
    track: TrackSection = TrackSection()
    baselines: dict[str, list[str]] = {}

    @field_validator("drift", mode="before")
    @classmethod
    def _one_or_more_detectors(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @field_validator("outer", mode="before")
    @classmethod
    def _outer_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        if self.learner.schedule is None and any("restart_schedule" in drift.action for drift in self.drift):
            raise ValueError('drift.action: expected learner.schedule with "restart_schedule", got none; name one')
        if self.outer.name not in OUTERS:
            raise ValueError(f"outer.name: expected one of {', '.join(OUTERS)}, got {self.outer.name!r}")
        for strategy in self.strategy:
            if ":" not in strategy.name and strategy.name not in STRATEGIES:
                raise ValueError(f"strategy.name: {unknown(strategy.name, STRATEGIES)}")
        for adaptation in self.model.adapt:
            if ":" not in adaptation.name and adaptation.name not in ADAPTATIONS:
                raise ValueError(f"model.adapt.name: {unknown(adaptation.name, ADAPTATIONS)}")
        for key, column in (
            ("features.task", self.features.task),
            ("features.weight", self.features.weight),
            ("stream.predict_at", self.stream.predict_at),
            ("stream.label_at", self.stream.label_at),
        ):
            if column in self.features.labels:
                raise ValueError(f"{key}: expected a column other than the label, got {column!r}")
        for key, given, objective in (
            ("item", bool(self.features.item), "ranking"),
            ("capacity", self.features.capacity is not None, "multiclass"),
            ("vocabulary", self.features.vocabulary is not None, "next_token"),
        ):
            if given and self.learner.objective != objective:
                raise ValueError(
                    f'features.{key}: expected with the objective "{objective}" only, got it with '
                    f'"{self.learner.objective}"; leave it out'
                )
        if ":" not in self.learner.objective and self.learner.objective not in OBJECTIVES:
            raise ValueError(f"learner.objective: {unknown(self.learner.objective, OBJECTIVES)}")
        return self

    # -- reading and writing ---------------------------------------------------------------------------------------

    @classmethod
    def read(cls, path: str | Path, settings: Sequence[str] = ()) -> Self:
        """Read a job file and apply `section.key=value` settings. Raises JobError naming the key."""
        path = Path(path)
        try:
            document = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise JobError(f"{path}: no such job file") from None
        except OSError as error:
            raise JobError(f"{path}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise JobError(f"{path}: not valid TOML: {error}") from error
        document.setdefault("name", path.stem if path.stem != "job" else path.resolve().parent.name)
        document.setdefault("root", str(path.resolve().parent))
        return cls.from_document(document, settings, str(path))

    @classmethod
    def from_document(cls, document: Mapping[str, Any], settings: Sequence[str] = (), place: str = "job") -> Self:
        """Validate a job given as nested dictionaries, with settings on top.

        >>> JobFile.from_document({"stream": {"pathh": "x"}})
        Traceback (most recent call last):
        ...
        incr_core.errors.JobError: job: stream.pathh: unknown key; did you mean "path"?
        """
        changed = _with_settings(document, settings)
        try:
            return cls.model_validate(changed)
        except ValidationError as error:
            raise JobError(f"{place}: {_first_fault(error, cls)}") from None

    def with_settings(self, settings: Sequence[str]) -> Self:
        """The same job with `section.key=value` settings on top."""
        return type(self).from_document(self.document(), settings)

    def document(self) -> dict[str, Any]:
        """Nested dictionaries, without what is not set."""
        found: dict[str, Any] = self.model_dump(mode="json", exclude_none=True)
        return found

    def toml(self) -> str:
        """The job as a job file."""
        text: str = tomli_w.dumps(self.document())
        return text

    def fingerprint(self) -> str:
        """Equal for equal jobs."""
        return hashlib.sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()


def unknown(name: str, known: Iterable[Any]) -> str:
    """Say that a name is not known, and which one may have been meant.

    >>> unknown("replya", ["replay", "ewc"])
    "unknown 'replya'; did you mean 'replay'?"
    """
    names = sorted(map(str, known))
    near = difflib.get_close_matches(name, names, 1)
    return f"unknown {name!r}; did you mean {near[0]!r}?" if near else f"unknown {name!r}; known: {', '.join(names)}"


def _with_settings(document: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(document, default=str))
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise JobError(f"--set {setting}: expected section.key=value")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()  # a bare word is text
        table: Any = changed
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise JobError(f"--set {setting}: {key} is not a section")
        table[keys[-1]] = value
    return changed


def _first_fault(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing wrong with a job, in one sentence; unknown keys first: they often cause the rest."""
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]
    path = [str(part) for part in fault["loc"]]
    place = ".".join(path)
    if fault["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        near = difflib.get_close_matches(path[-1], known, 1)
        hint = f'did you mean "{near[0]}"?' if near else f"known keys: {', '.join(known)}"
        return f"{place}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"{place}: missing; the job needs it"
    message = fault["msg"].removeprefix("Value error, ")
    if not place:
        return message
    return f"{place}: {message[0].lower() + message[1:]}, got {fault['input']!r}"


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        if part.isdigit():
            continue
        kind: Any = model.model_fields[part].annotation
        kind = next((inner for inner in getattr(kind, "__args__", ()) if isinstance(inner, type)), kind)
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return []
        model = kind
    return list(model.model_fields)
