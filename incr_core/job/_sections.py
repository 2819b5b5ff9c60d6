"""The sections of a job file, their shorthands, and defaults that depend on several sections."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from incr_core.job._cluster_section import ClusterSection
from incr_core.job._data_sections import FeaturesSection, StreamSection
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

__all__ = ["JobSections"]


class JobSections(Section):
    """The sections of a job file."""

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
