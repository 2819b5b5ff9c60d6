"""The job file: reading, settings on top, and checks of the whole."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from incr_core._util import Catalogue
from incr_core.errors import JobError
from incr_core.job._cluster_section import ClusterSection
from incr_core.job._data_sections import FeaturesSection, StreamSection
from incr_core.job._fault import first_fault
from incr_core.job._federated_section import FederatedSection
from incr_core.job._learner_sections import LearnerSection, ModelSection
from incr_core.job._run_sections import (
    AlertsSection,
    DriftSection,
    LimitsSection,
    PublishSection,
    ReviewSection,
    TrackSection,
)
from incr_core.job._section import Named, Section
from incr_core.models import MODELS
from incr_core.models.adapt import ADAPTATIONS
from incr_core.objectives import OBJECTIVES
from incr_core.rounds import AGGREGATIONS, OUTERS
from incr_core.strategies import STRATEGIES

__all__ = ["OBJECT", "JobFile"]

OBJECT = "object:"
"""Prefix of the names of objects given by Python: "object:__main__.Net"."""


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

    name: str = Field("job", min_length=1)
    """The name of the run. Default: the name of the file, or of its folder where the file is `job.toml`."""
    root: str = "."
    """The folder where relative paths and modules are looked up. Default: the folder of the job file."""
    stream: StreamSection
    """The source of the rows and the size of an increment."""
    features: FeaturesSection
    """The roles of the columns."""
    model: ModelSection = ModelSection()
    """The model."""
    learner: LearnerSection
    """The update rule."""
    strategy: list[Named] = Field(default_factory=list)
    """The continual-learning strategies: `name` and its arguments. `incr strategies` lists them."""
    drift: list[DriftSection] = Field(default_factory=list)
    """Detectors of drift and their actions."""
    review: ReviewSection | None = None
    """Passes over rows of the history."""
    outer: Named = Named(name="mean")
    """What the mean of the updates becomes, on a cluster as with clients: `"mean"` (FedAvg); `"nesterov"` (DiLoCo)
    with `lr` 0.7, `momentum` 0.9; `"momentum"` (FedAvgM) with `lr` 1, `momentum` 0.9; `"adam"`, `"yogi"` with `lr`
    0.1, `beta1` 0.9, `beta2` 0.99, `tau` 0.001, or `"adagrad"` with `beta1` 0 (Reddi et al. 2021).
    """
    cluster: ClusterSection = ClusterSection()
    """Learning on Ray."""
    federated: FederatedSection = FederatedSection()
    """Learning on Flower clients."""
    publish: PublishSection = PublishSection()
    """When versions are committed, and which are kept and served."""
    limits: LimitsSection = LimitsSection()
    """Limits of an increment. Above a limit, a sample of its rows is learned."""
    track: TrackSection = TrackSection()
    """Further destinations of metrics."""
    alerts: AlertsSection = AlertsSection()
    """The messages sent during a run, and their destinations."""
    baselines: dict[str, list[str]] = Field(default_factory=dict)
    """`name = ["section.key=value", ...]`: runs of the same job with these settings, on the local engine, drawn beside
    it in the report.
    """
    objects: dict[str, str] = Field(default_factory=dict)
    """Written by `incr_core.open_run`, not by hand: what the objects are that only Python has."""

    _objects_given: Mapping[str, Callable[..., Any]] = PrivateAttr(default_factory=dict)

    @field_validator("drift", mode="before")
    @classmethod
    def _one_or_more_detectors(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @field_validator("outer", mode="before")
    @classmethod
    def _outer_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _rare_rows_take_large_steps(cls, document: Any) -> Any:
        """Few steps look up the row of an id, so models of ids alone default to Adagrad: a rate for each weight.

        The layers of an MLP do not learn at that rate.
        """
        features, learner, model = (document.get(key) for key in ("features", "learner", "model"))
        has_ids = isinstance(features, dict) and bool(features.get("ids"))
        if has_ids and isinstance(learner, dict) and "optimizer" not in learner:
            kind = model.get("kind") if isinstance(model, dict) else None
            if kind in ("factorisation", "two_towers") or learner.get("objective") == "ranking":
                return {**document, "learner": {**learner, "optimizer": {"name": "adagrad", "lr": 0.15}}}
        return document

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        if self.learner.schedule is None and any("restart_schedule" in drift.action for drift in self.drift):
            raise ValueError('drift.action: expected learner.schedule with "restart_schedule", got none; name one')
        names: list[tuple[str, str, Catalogue[Any]]] = [
            ("outer.name", self.outer.name, OUTERS),
            ("federated.aggregation.name", self.federated.aggregation.name, AGGREGATIONS),
            ("learner.objective", self.learner.objective, OBJECTIVES),
            *(("strategy.name", strategy.name, STRATEGIES) for strategy in self.strategy),
            *(("model.adapt.name", adaptation.name, ADAPTATIONS) for adaptation in self.model.adapt),
        ]
        if self.model.factory is not None:
            names.append(("model.factory", self.model.factory, MODELS))
        for place, name, catalogue in names:
            if fault := catalogue.fault(name):
                raise ValueError(f"{place}: {fault}")
        return self

    @model_validator(mode="after")
    def _classes_are_distinct(self) -> Self:
        told = [str(name) for name in self.features.classes or []]
        if twice := sorted({name for name in told if told.count(name) > 1}):
            raise ValueError(f"features.classes: expected every class once, got {twice[0]} twice; take one out")
        return self

    @model_validator(mode="after")
    def _arguments_have_a_factory(self) -> Self:
        if self.model.arguments and self.model.factory is None:
            raise ValueError(
                "model.arguments: expected with model.factory only, got them for the built-in model; "
                "its keys are hidden, embedding and dropout"
            )
        if self.model.inputs and self.model.factory is None:
            raise ValueError("model.inputs: expected with model.factory only, got them for the built-in model")
        return self

    @model_validator(mode="after")
    def _labels_are_labels_only(self) -> Self:
        for key, column in (
            ("features.task", self.features.task),
            ("features.weight", self.features.weight),
            ("stream.predict_at", self.stream.predict_at),
            ("stream.label_at", self.stream.label_at),
            *(("stream.key", column) for column in self.stream.keys),
        ):
            if column in self.features.labels:
                raise ValueError(f"{key}: expected a column other than the label, got {column!r}")
        return self

    @model_validator(mode="after")
    def _rows_lie_somewhere(self) -> Self:
        if not self.stream.path and not self.federated.owned:
            raise ValueError(
                "stream.path: expected where the rows are, got nothing; only where their owners have them "
                "(federated.superlink) it may be left out"
            )
        return self

    @model_validator(mode="after")
    def _limits_can_be_kept(self) -> Self:
        if self.limits.rows_per_hour is not None and self.stream.predict_at is None:
            raise ValueError(
                "limits.rows_per_hour: expected stream.predict_at, whose hours are meant, got none; name it, or set "
                "limits.seconds"
            )
        if self.federated.owned and self.limits != LimitsSection():
            raise ValueError(
                "limits: expected none with federated.superlink, whose owners decide about their rows, got some; leave "
                "them out"
            )
        if self.federated.privacy is not None and self.limits != LimitsSection():
            raise ValueError(
                "limits: expected none with federated.privacy, whose account is of all rows of a client, got some; "
                "leave out one of the two"
            )
        return self

    @model_validator(mode="after")
    def _rounds_are_accounted_for(self) -> Self:
        if self.federated.privacy is not None and self.review is not None:
            raise ValueError(
                "review: expected none with federated.privacy, whose account has the rounds of increments alone; leave "
                "out one of the two"
            )
        if self.federated.privacy is not None and self.publish.wants_gate:
            raise ValueError(
                "publish.gate: expected false with federated.privacy, since which version is kept would be chosen by "
                "sums over rows without noise, got true; leave out one of the two"
            )
        for drift in self.drift if self.federated.privacy is not None else ():
            if acts := [action for action in drift.action if action != "alert"]:
                raise ValueError(
                    'drift.action: expected "alert" alone with federated.privacy, since what is done would be chosen '
                    f"by sums over rows without noise, got {acts[0]!r}; leave out one of the two"
                )
        return self

    @model_validator(mode="after")
    def _stateless_clients_are_their_rows(self) -> Self:
        if not self.federated.stateless:
            return self
        kept = {
            "features.rate": bool(self.features.rate),
            "stream.key": bool(self.stream.keys),
            "publish.gate": bool(self.publish.wants_gate),
            "limits.rows_per_hour": self.limits.rows_per_hour is not None,
            "review": self.review is not None,
            "drift": bool(self.drift),
            "learner.validation": self.learner.validation is not None,
            "learner.frozen": self.learner.frozen,
            "learner.head": self.learner.head is not None,
            'learner.epochs = "auto"': self.learner.epochs == "auto",
            'model.kind = "auto"': self.model.kind == "auto",
        }
        if said := next((name for name, there in kept.items() if there), None):
            raise ValueError(
                f"federated.stateless: expected clients of which nothing is kept but rows that wait, got {said}; leave "
                "out one of the two"
            )
        return self

    @model_validator(mode="after")
    def _a_head_is_worked_out_whole(self) -> Self:
        if self.learner.head is not None and self.learner.consolidate != "increment":
            raise ValueError(
                'learner.consolidate: expected "increment" with learner.head, which is computed again after each, got '
                f"{self.learner.consolidate!r}; leave it out"
            )
        for key in ("validation", "epochs", "warm_epochs") if self.learner.head is not None else ():
            if (got := getattr(self.learner, key)) not in (None, 1):
                raise ValueError(
                    f"learner.{key}: expected none with learner.head, which takes each row into its sums once and "
                    f"learns nothing by steps, got {got!r}; leave it out"
                )
        if self.learner.head is not None and self.cluster.shards != 1:
            raise ValueError(
                "cluster.shards: expected 1 with learner.head, of which nothing is learned by steps, got "
                f"{self.cluster.shards}; use replicas"
            )
        return self

    @model_validator(mode="after")
    def _a_window_has_keys(self) -> Self:
        if self.stream.key_window is not None and not self.stream.keys:
            raise ValueError("stream.key_window: expected stream.key too, got none; name columns that identify rows")
        return self

    @model_validator(mode="after")
    def _columns_are_one_thing(self) -> Self:
        features = self.features
        used = [*features.numeric, *features.categorical, *features.text, *features.date, *features.ids]
        said = {features.weight, features.task, self.stream.predict_at, self.stream.label_at, *features.labels}
        for name in features.exclude:
            if name in used:
                raise ValueError(f"features.exclude: {name} is named as a feature too; take it out of one of the two")
            if name in said or name in self.stream.keys:
                raise ValueError(
                    f"features.exclude: expected columns that would be features, got {name}, which the job names as "
                    "label, weight, task, key or time, and which is none; leave it out"
                )
        if features.text and self.learner.objective in ("ranking", "next_token"):
            raise ValueError(
                f'features.text: expected none with the objective "{self.learner.objective}", whose built-in model '
                "takes no text; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _slices_are_of_columns(self) -> Self:
        slices, values = self.features.slices, self.features.slice_values or {}
        if twice := sorted({name for name in slices if slices.count(name) > 1}):
            raise ValueError(f"features.slices: expected every column once, got {twice[0]} twice; take one out")
        if label := [name for name in slices if name in self.features.labels]:
            raise ValueError(
                f"features.slices: expected columns other than the label, got {label[0]}, within whose values there is "
                "nothing to predict; take it out"
            )
        if unnamed := [name for name in values if name not in slices]:
            raise ValueError(
                f"features.slice_values: expected values of the columns in features.slices, got those of {unnamed[0]}; "
                "add it there, or take it out"
            )
        return self

    @model_validator(mode="after")
    def _keys_fit_the_objective(self) -> Self:
        for key, given, objective in (
            ("item", bool(self.features.item), "ranking"),
            ("capacity", self.features.capacity is not None, "multiclass"),
            ("vocabulary", self.features.vocabulary is not None, "next_token"),
        ):
            if key == "item" and self.features.ids:  # they say which of the ids is recommended
                continue
            if given and self.learner.objective != objective:
                raise ValueError(
                    f'features.{key}: expected with the objective "{objective}" only, got it with '
                    f'"{self.learner.objective}"; leave it out'
                )
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
    def from_document(
        cls,
        document: Mapping[str, Any],
        settings: Sequence[str] = (),
        place: str = "job",
        objects: Mapping[str, Callable[..., Any]] | None = None,
    ) -> Self:
        """Validate a job given as nested dictionaries, with settings on top.

        objects: makers of what the document names by "object:NAME", by these names. They stay in memory: of a job that
        is written down, the section `objects` tells what they are, so that the same ones are known again.

        >>> JobFile.from_document({"stream": {"pathh": "x"}})
        Traceback (most recent call last):
        ...
        incr_core.errors.JobError: job: stream.pathh: unknown key; did you mean "path"?
        """
        changed = _with_settings(document, settings)
        try:
            job = cls.model_validate(changed)
        except ValidationError as error:
            raise JobError(f"{place}: {first_fault(error, cls, explained=True)}") from None
        job._objects_given = dict(objects or {})
        return job

    def with_settings(self, settings: Sequence[str]) -> Self:
        """The same job with `section.key=value` settings on top. Changed columns are measured again."""
        document = self.document()
        if any(setting.partition("=")[0].strip() in ("features.numeric", "features.label") for setting in settings):
            document["features"].pop("widths", None)
        return type(self).from_document(document, settings, objects=self._objects_given)

    def changed(self, keys: Mapping[str, Any]) -> Self:
        """The same job with other top-level keys, sections whole."""
        return type(self).from_document({**self.document(), **keys}, objects=self._objects_given)

    @property
    def objects_given(self) -> Mapping[str, Callable[..., Any]]:
        """The makers of the objects that the job names by "object:NAME", in memory only."""
        return self._objects_given

    def named(self, name: str, place: str, catalogue: Catalogue[Any]) -> Callable[..., Any]:
        """What the job names: an object that Python gave, or what the catalogue finds.

        place: the key that names it.
        """
        if not name.startswith(OBJECT):
            found: Callable[..., Any] = catalogue.find(name, place, self.root)
            return found
        if name.removeprefix(OBJECT) not in self._objects_given:
            raise JobError(
                f'{place} "{name}": expected an object that only Python has, got none, since the run was begun with '
                "incr_core.open_run; go on with it, and predict, from there with the same objects"
            )
        return self._objects_given[name.removeprefix(OBJECT)]

    def document(self) -> dict[str, Any]:
        """Nested dictionaries, without what is not set."""
        found: dict[str, Any] = self.model_dump(mode="json", exclude_none=True)
        if not self.stream.path:
            del found["stream"]["path"]
        return found if self.objects else {key: found[key] for key in found if key != "objects"}

    def toml(self) -> str:
        """The job as a job file."""
        text: str = tomli_w.dumps(self.document())
        return text

    @classmethod
    def as_now(cls, document: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """A job that an earlier incr wrote, with the keys that are new since at their defaults, and its fingerprint.

        So the default of a new key must be what was done without it. The fingerprint is empty where it is no job any
        more.
        """
        try:
            job = cls.from_document(document)
        except JobError:
            return dict(document), ""
        return job.document(), job.fingerprint()

    def fingerprint(self) -> str:
        """Equal for jobs that are the same run.

        What is learned does not depend on what it is called, on where workers are found and how long they are waited
        for, on who is told of it, nor on how many versions are kept; how many replicas share one stream, and how many
        shards hold a replica's model, may change in the midst of it. A job folder may move as a whole, with the data in
        it. A run that a bad row or a bad file has stopped may go on with quarantine: until then there was none.
        """
        document = self.document()
        document["features"]["on_bad_row"] = "fail"
        for section, key in _OPERATIONAL:
            document.get(section, {}).pop(key, None)
        federated = self.federated
        if federated.owned or not (federated.selects or federated.availability):  # else how many are drawn at least
            document["federated"].pop("min_clients", None)
        if federated.availability is None:  # else who is too late
            document["federated"].pop("round_timeout", None)
        if self.publish.on_hold == "go_on":  # else the gate says what is learned
            for key in ("margin", "patience", "reference", "on_hold"):
                del document["publish"][key]
        if self.publish.holdout or self.publish.on_hold == "rollback":
            document["publish"]["gate"] = True
        else:
            document["publish"].pop("gate", None)
        if not self.publish.holdout:  # as an earlier incr has it
            del document["publish"]["holdout"]
        document["cluster"]["shards"] = 1
        if self.cluster.partition == "blocks":  # else each replica has a stream of its own
            document["cluster"].pop("replicas", None)
        del document["alerts"], document["limits"]
        del document["name"]  # of the folder, where none is given
        path, root = Path(self.stream.path), Path(document.pop("root"))
        if document["federated"].pop("superlink", None) is not None:
            document["stream"]["path"] = "with their owners"
        elif path.is_relative_to(root):
            document["stream"]["path"] = path.relative_to(root).as_posix()
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


_OPERATIONAL = [
    ("learner", "graphs"),
    ("cluster", "gpus"),
    ("features", "on_bad_file"),
    ("features", "slices"),
    ("features", "slice_values"),
    *(("cluster", key) for key in ("address", "timeout", "spares", "max_failures")),
    *(("federated", key) for key in ("certificates", "accept_failures")),
    ("publish", "keep"),
    ("publish", "states"),
    ("track", "tensorboard"),
]
"""Keys that may change while a run goes on: what is learned is the same."""


def _plain(value: Any) -> Any:
    """A value of TOML as JSON has it: a time as its ISO text."""
    return json.loads(json.dumps(value, default=lambda found: getattr(found, "isoformat", found.__str__)()))


def _quoted(text: str) -> str:
    """A list or table of TOML with its bare words in quotes.

    >>> _quoted("[origin]"), _quoted("{name=adam, lr=0.1}"), _quoted('["a", b')
    ('["origin"]', '{name="adam", lr=0.1}', '["a", "b"')
    """
    words = r'"[^"]*"|\'[^\']*\'|[^\s\[\]{},=]+(\s*=)?'
    return re.sub(words, lambda found: found[0] if found[1] or _is_value(found[0]) else f'"{found[0]}"', text)


def _is_value(text: str) -> bool:
    try:
        tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return False
    return True


def _with_settings(document: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    changed: dict[str, Any] = _plain(document)
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise JobError(f"--set {setting}: expected section.key=value")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()  # a bare word is text
            if value.startswith(("[", "{")):  # the shell removes quotes from a list or a table
                raise JobError(
                    f"--set {setting}: not valid TOML; quote the setting in the shell: "
                    f"--set '{path.strip()}={_quoted(value)}'"
                ) from None
        value = _plain(value)
        table: Any = changed
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise JobError(f"--set {setting}: {key} is not a section")
        table[keys[-1]] = value
    return changed
