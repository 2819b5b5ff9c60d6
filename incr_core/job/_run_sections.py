"""The sections of a job file about a run as a whole: [[drift]], [review], [publish], [limits], [track] and [alerts]."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator

from incr_core._util import unknown
from incr_core.data.times import SECOND, duration
from incr_core.drift import ACTIONS
from incr_core.job._field_types import Duration
from incr_core.job._section import Section

__all__ = ["AlertsSection", "DriftSection", "LimitsSection", "PublishSection", "ReviewSection", "TrackSection"]


class DriftSection(Section):
    """A detector of drift over values known before learning, and the actions when it signals."""

    detector: Literal["adwin", "page_hinkley", "kswin", "ddm"] = "adwin"
    """The detector. `"ddm"` takes errors only, row by row."""
    watch: str = "loss"
    """What it looks at: `"loss"` or `"error"` of the predictions, the name of a metric (one value an increment), or
    `"features"` of the rows that arrive. An improvement is not a drift.
    """
    columns: list[str] = []
    """The features to look at. Default: all numeric ones."""
    action: list[str] = ["alert"]
    """One action or several: `"alert"` (the event only), `"consolidate"` (needs `learner.consolidate` other than
    `"increment"`), `"raise_rate"`, `"flush_replay"` (delete the rows in memories), `"enlarge_replay"`,
    `"restart_schedule"` (a warm restart of `learner.schedule`), `"rewarm"` (return to the champion's weights).
    """
    rate: float = Field(3.0, gt=0)
    """For `"raise_rate"`: the factor of the learning rate."""
    lasting: int = Field(5, ge=1)
    """For `"raise_rate"`: the number of increments with rows to learn."""
    enlarge: float = Field(2.0, gt=1)
    """For `"enlarge_replay"`: the factor of the capacity of memories."""
    block: int | None = Field(None, ge=1)
    """Rows averaged into one value. Default: 32."""
    warm_up: int = Field(32, ge=2)
    """Values that set the scale, at the beginning and after each drift."""
    options: dict[str, float] = {}
    """Arguments of the detector of river, in place of our defaults."""

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

    every: Duration | Annotated[int, Field(strict=True, ge=1)]
    """Increments with rows to learn, or a duration such as `"7d"` (needs `predict_at`). Required."""
    rows: int = Field(5000, ge=1)
    """The number of rows to draw."""


class PublishSection(Section):
    """When versions are committed, how many are kept, and whether each is judged before it is served."""

    every: int = Field(1, ge=1)
    """Increments between commits."""
    keep: int | None = Field(None, ge=1)
    """The number of newest versions that keep their weights. The champion always does. Default: all."""
    gate: bool | None = None
    """Judge each new version before it is served, on the rows that arrived and on rows of the past. It becomes the
    champion, or is held back while the champion keeps serving and the run keeps learning
    ([how](design.md#the-gate)). What is learned does not depend on it, except for what the drift action `rewarm`
    returns to. Default: true, but false with `federated.privacy`, `federated.stateless` or that drift action, and for
    an objective without `prediction_losses`.
    """
    margin: float = Field(0.03, ge=0)
    """By which share of the champion's loss on the past a suspect version may be worse, beyond what is usual in this
    run.
    """
    patience: int = Field(14, ge=1)
    """Versions held in a row after which it may be a drift: the next version is promoted if it answers new rows better
    than the champion did, and the rows since become the past. Otherwise it stays held, and the events say so.
    """
    reference: int = Field(128, ge=1)
    """Rows of each period of the past that every participant keeps to judge on. Periods double in length going back,
    so n commits keep at most 2 `reference` log2(n) rows.
    """
    holdout: float = Field(0, ge=0)
    """Rows held back from learning until the next increment, so that the champion and the new version are compared on
    rows that neither has learned, by loss and calibration ([how](design.md#the-gate)): a share of an increment's
    rows, up to 0.5, or a number of rows of each participant, and never more than half. The newest rows are held
    back, and each is learned exactly once. It needs `gate` and cannot be combined with `on_hold = "rollback"`. It
    decides when rows are learned, so it cannot change during a run.
    """
    states: int = Field(2, ge=2)
    """How many of the newest versions keep the state that `incr rollback` needs; the champion always does. A state has
    the size of the participants' memories and optimisers.
    """
    on_hold: Literal["go_on", "rollback"] = "go_on"
    """`"rollback"`: the rows of a version that is held go to quarantine, and learning goes on from the champion as if
    they had never arrived. After `patience` commits in a row it counts as a drift, and new rows are learned. The
    gate then decides what is learned, so the keys of the gate cannot change during a run.
    """

    @model_validator(mode="after")
    def _holds_something(self) -> Self:
        if self.on_hold == "rollback" and self.gate is False:
            raise ValueError('publish.on_hold: expected gate = true with "rollback", got false; leave gate out')
        return self

    @model_validator(mode="after")
    def _holds_rows_back(self) -> Self:
        if self.holdout and self.gate is False:
            raise ValueError(
                "publish.holdout: expected gate = true, which judges by the rows held back, got false; leave gate out"
            )
        if 0.5 < self.holdout < 1 or (self.holdout >= 1 and not self.holdout.is_integer()):
            raise ValueError(
                "publish.holdout: expected a share of the rows up to 0.5, or a whole number of rows, got "
                f"{self.holdout:g}"
            )
        if self.holdout and self.on_hold == "rollback":
            raise ValueError(
                'publish.holdout: expected on_hold = "go_on", got "rollback", which sets increments aside as a whole, '
                "while the rows held back of it would be learned with the next one; leave out one of the two"
            )
        return self

    @property
    def wants_gate(self) -> bool | None:
        """Whether the job asks for a gate, explicitly or by a key that needs one; None if it uses the default."""
        return True if self.holdout or self.on_hold == "rollback" else self.gate

    @property
    def keeps_older(self) -> bool:
        """Whether states may be kept of others than the last two versions."""
        return self.gate is not False or self.states > 2


UNITS = {
    "rows_per_hour": "rows",
    "seconds": "seconds",
    "cpu_seconds": "seconds",
    "memory": "gigabytes",
    "disk": "gigabytes",
}
"""The units of limits."""


class LimitsSection(Section):
    """Limits of an increment. Above a limit, a sample of its rows is learned."""

    rows_per_hour: float | None = Field(None, gt=0)
    """Rows to learn of an hour of the stream (`stream.predict_at`), on average over each increment: 5 is 120 rows of a
    day. Replicas and clients that deal out one stream in blocks share the number. Those that own rows have it each.
    Which rows are learned depends on the rows alone. Default: no limit.
    """
    seconds: float | None = Field(None, gt=0)
    """Wall time of an increment, to predict, learn and exchange. After an increment that took longer, the next one
    learns a smaller share of its rows, at least a hundredth. Where there is time, the share at most doubles with each
    increment. The share is part of each commit, so a resumed run continues with it. Default: no limit.
    """
    cpu_seconds: float | None = Field(None, gt=0)
    """CPU seconds of an increment, to read, predict and learn, of all processes that learn together. It is kept like
    `seconds`. Default: no limit.
    """
    memory: float | None = Field(None, gt=0)
    """Gigabytes of resident memory of each process that learns, at the peak of an increment. It is kept like `seconds`:
    the share is in proportion to the memory that increments add. Model, memories of strategies and one increment of
    the files must fit; only the rows to learn are sampled. Linux only. Default: no limit.
    """
    disk: float | None = Field(None, gt=0)
    """Gigabytes that the run's directory may take before older versions lose their weights, half of them at a time,
    down to the last two and the champion. Rows, metrics and manifests stay, and so do the states that learning
    resumes from. The size of these last versions and of the tables is not limited. Not at an address. Default: no
    limit.
    """

    @field_validator("*", mode="before")
    @classmethod
    def _has_no_unit(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        unit = UNITS[str(info.field_name)]
        raise ValueError(f'expected a number of {unit}, got "{value}"; write it without quotes and unit')


class TrackSection(Section):
    """Further destinations of committed increments."""

    tensorboard: bool = False
    """Also write the metrics of increments as event files to DIR/tensorboard, as they are committed (extra `track`)."""
    mlflow: str | None = None
    """The tracking URI of MLflow: `"http://HOST:5000"`, `"databricks"`, `"sqlite:///FILE"` (extra `mlflow`). The
    settings of the job, the metrics of each increment, and every published champion are recorded there. MLflow takes
    user name, password or token from its environment variables, never from the URI, which job.toml would show.
    """
    callbacks: list[str] = []
    """Further trackers: `"module:Class"`, each a subclass of `incr_core.trackers.Tracker`, or entry points of the group
    `incr.trackers`.
    """

    @field_validator("mlflow")
    @classmethod
    def _is_a_tracking_uri(cls, value: str | None) -> str | None:
        if value is None or re.fullmatch(r"databricks(-uc)?(://[\w-]+)?", value):
            return value
        if value.startswith("sqlite:///"):
            return value
        check_address(value, "http://127.0.0.1:5000")
        return value

    @field_validator("callbacks")
    @classmethod
    def _are_different(cls, value: list[str]) -> list[str]:
        for name in value:
            if value.count(name) > 1:
                raise ValueError(f"expected different trackers, got {name!r} twice; write it once")
        return value


ALERTS = (
    "drift",
    "held",
    "promoted",
    "diverged",
    "quarantine",
    "stale",
    "worker lost",
    "rollback",
    "bad file",
    "limit",
)
"""The kinds of message."""


class AlertsSection(Section):
    """The messages sent during a run, and their destinations."""

    webhook: str | None = None
    """An http or https address to which messages are posted, one JSON object each: `id`, `run`, `directory`, `kind`,
    `what`, `action`, and for an increment `increment`, `name` and usually `rows`. What is learned again after a
    kill may be sent again, with the same `id`. A message is tried ten times, the second time after a second, each
    later time after twice as long. A 4xx other than 408 and 429, or a redirect, is final. At most 100 messages
    wait; the oldest are given up first.
    """
    secret: str | None = None
    """Where the secret is that signs messages, `"env:NAME"` or `"file:PATH"`; never the secret itself, which job.toml
    would show. The header `X-Incr-Signature: t=SECONDS,sha256=HEX` has the HMAC-SHA256 of `SECONDS.BODY`. Reject
    messages older than some minutes. A detached run reads the environment of its own process; a file is safer.
    """
    log: bool = False
    """Also write messages to the logger `incr.alerts`, as warnings. They appear on standard error unless Python's
    logging is configured otherwise.
    """
    on: list[str] = ["drift", "held", "diverged", "quarantine", "stale", "worker lost"]
    """Which messages are sent: `"drift"`, `"held"`, `"diverged"`, `"quarantine"`, `"stale"`, `"worker lost"`,
    `"promoted"`, `"rollback"`, `"bad file"`, `"limit"`.
    """
    quarantine: float = Field(0.05, ge=0, lt=1)
    """The share of bad rows in an increment of at least 20 above which a message is sent."""
    stale: Duration | None = None
    """A duration without a new version after which a message is sent, once until the next version."""

    @property
    def stale_seconds(self) -> float | None:
        """Seconds without a version after which a message is sent; None: never."""
        return None if self.stale is None or "stale" not in self.on else duration(self.stale, "alerts.stale") / SECOND

    @field_validator("on")
    @classmethod
    def _is_known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in ALERTS:
                raise ValueError(unknown("an alert", name, ALERTS))
        return value

    @field_validator("webhook")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None:
            check_address(value, "https://example.org/hook")
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


def check_address(value: str, example: str) -> None:
    """Raise ValueError unless a text is an http or https address without a password.

    Example:
        >>> check_address("htp://127.0.0.1:5000", "http://127.0.0.1:5000")
        Traceback (most recent call last):
        ...
        ValueError: expected an address such as http://127.0.0.1:5000, got another text; correct it
    """
    try:
        parts = urlsplit(value)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or value != value.strip() or not value.isascii() or any(sign < "!" for sign in value):
        raise ValueError(f"expected an address such as {example}, got another text; correct it")
    if parts.username is not None or parts.password is not None:
        raise ValueError("expected an address without a password in it, which job.toml would show; take it out")
