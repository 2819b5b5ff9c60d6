"""Checks of a job file that concern more than one section."""

from __future__ import annotations

from typing import Any

from incr_core._util import Catalogue
from incr_core.job._run_sections import LimitsSection
from incr_core.job._sections import JobSections
from incr_core.models import MODELS
from incr_core.models.adapt import ADAPTATIONS
from incr_core.objectives import OBJECTIVES
from incr_core.rounds import AGGREGATIONS, OUTERS
from incr_core.strategies import STRATEGIES

__all__ = ["check_consistency"]


def check_consistency(job: JobSections) -> None:
    """Check that the sections of a job agree with each other.

    Raises:
        ValueError: The first contradiction, with the keys, what was expected and found, and the remedy.
    """
    _check_names(job)
    _check_classes(job)
    _check_factory_arguments(job)
    _check_label_is_only_label(job)
    _check_path(job)
    _check_limits(job)
    _check_privacy(job)
    _check_stateless_clients(job)
    _check_head(job)
    _check_key_window(job)
    _check_columns(job)
    _check_slices(job)
    _check_keys_of_objectives(job)


def _check_names(job: JobSections) -> None:
    if job.learner.schedule is None and any("restart_schedule" in drift.action for drift in job.drift):
        raise ValueError('drift.action: expected learner.schedule with "restart_schedule", got none; name one')
    names: list[tuple[str, str, Catalogue[Any]]] = [
        ("outer.name", job.outer.name, OUTERS),
        ("federated.aggregation.name", job.federated.aggregation.name, AGGREGATIONS),
        ("learner.objective", job.learner.objective, OBJECTIVES),
        *(("strategy.name", strategy.name, STRATEGIES) for strategy in job.strategy),
        *(("model.adapt.name", adaptation.name, ADAPTATIONS) for adaptation in job.model.adapt),
    ]
    if job.model.factory is not None:
        names.append(("model.factory", job.model.factory, MODELS))
    for place, name, catalogue in names:
        if fault := catalogue.fault(name):
            raise ValueError(f"{place}: {fault}")


def _check_classes(job: JobSections) -> None:
    classes = [str(name) for name in job.features.classes or []]
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        raise ValueError(f"features.classes: expected every class once, got {twice[0]} twice; take one out")


def _check_factory_arguments(job: JobSections) -> None:
    if job.model.arguments and job.model.factory is None:
        raise ValueError(
            "model.arguments: expected with model.factory only, got them for the built-in model; "
            "its keys are hidden, embedding and dropout"
        )
    if job.model.inputs and job.model.factory is None:
        raise ValueError("model.inputs: expected with model.factory only, got them for the built-in model")


def _check_label_is_only_label(job: JobSections) -> None:
    for key, column in (
        ("features.task", job.features.task),
        ("features.weight", job.features.weight),
        ("stream.predict_at", job.stream.predict_at),
        ("stream.label_at", job.stream.label_at),
        *(("stream.key", column) for column in job.stream.keys),
    ):
        if column in job.features.labels:
            raise ValueError(f"{key}: expected a column other than the label, got {column!r}")


def _check_path(job: JobSections) -> None:
    if not job.stream.path and not job.federated.owned:
        raise ValueError(
            "stream.path: expected where the rows are, got nothing; only where their owners have them "
            "(federated.superlink) it may be left out"
        )


def _check_limits(job: JobSections) -> None:
    if job.limits.rows_per_hour is not None and job.stream.predict_at is None:
        raise ValueError(
            "limits.rows_per_hour: expected stream.predict_at, whose hours are meant, got none; name it, or set "
            "limits.seconds"
        )
    if job.federated.owned and job.limits != LimitsSection():
        raise ValueError(
            "limits: expected none with federated.superlink, whose owners decide about their rows, got some; leave "
            "them out"
        )
    if job.federated.privacy is not None and job.limits != LimitsSection():
        raise ValueError(
            "limits: expected none with federated.privacy, whose account is of all rows of a client, got some; "
            "leave out one of the two"
        )


def _check_privacy(job: JobSections) -> None:
    if job.federated.privacy is not None and job.review is not None:
        raise ValueError(
            "review: expected none with federated.privacy, whose account has the rounds of increments alone; leave "
            "out one of the two"
        )
    if job.federated.privacy is not None and job.publish.gate:
        raise ValueError(
            "publish.gate: expected false with federated.privacy, since which version is kept would be chosen by "
            "sums over rows without noise, got true; leave out one of the two"
        )
    for drift in job.drift if job.federated.privacy is not None else ():
        if acts := [action for action in drift.action if action != "alert"]:
            raise ValueError(
                'drift.action: expected "alert" alone with federated.privacy, since what is done would be chosen '
                f"by sums over rows without noise, got {acts[0]!r}; leave out one of the two"
            )


def _check_stateless_clients(job: JobSections) -> None:
    if not job.federated.stateless:
        return
    kept = {
        "features.rate": bool(job.features.rate),
        "stream.key": bool(job.stream.keys),
        "publish.gate": job.publish.gate,
        "limits.rows_per_hour": job.limits.rows_per_hour is not None,
        "review": job.review is not None,
        "drift": bool(job.drift),
        "learner.validation": job.learner.validation is not None,
        "learner.frozen": job.learner.frozen,
        "learner.head": job.learner.head is not None,
        'learner.epochs = "auto"': job.learner.epochs == "auto",
        'model.kind = "auto"': job.model.kind == "auto",
    }
    if said := next((name for name, there in kept.items() if there), None):
        raise ValueError(
            f"federated.stateless: expected clients of which nothing is kept but rows that wait, got {said}; leave "
            "out one of the two"
        )


def _check_head(job: JobSections) -> None:
    if job.learner.head is not None and job.learner.consolidate != "increment":
        raise ValueError(
            'learner.consolidate: expected "increment" with learner.head, which is computed again after each, got '
            f"{job.learner.consolidate!r}; leave it out"
        )
    for key in ("validation", "epochs", "warm_epochs") if job.learner.head is not None else ():
        if (got := getattr(job.learner, key)) not in (None, 1):
            raise ValueError(
                f"learner.{key}: expected none with learner.head, which takes each row into its sums once and "
                f"learns nothing by steps, got {got!r}; leave it out"
            )
    if job.learner.head is not None and job.cluster.shards != 1:
        raise ValueError(
            "cluster.shards: expected 1 with learner.head, of which nothing is learned by steps, got "
            f"{job.cluster.shards}; use replicas"
        )


def _check_key_window(job: JobSections) -> None:
    if job.stream.key_window is not None and not job.stream.keys:
        raise ValueError("stream.key_window: expected stream.key too, got none; name columns that identify rows")


def _check_columns(job: JobSections) -> None:
    features = job.features
    used = [*features.numeric, *features.categorical, *features.text, *features.date, *features.ids]
    said = {features.weight, features.task, job.stream.predict_at, job.stream.label_at, *features.labels}
    for name in features.exclude:
        if name in used:
            raise ValueError(f"features.exclude: {name} is named as a feature too; take it out of one of the two")
        if name in said or name in job.stream.keys:
            raise ValueError(
                f"features.exclude: expected columns that would be features, got {name}, which the job names as "
                "label, weight, task, key or time, and which is none; leave it out"
            )
    if features.text and job.learner.objective in ("ranking", "next_token"):
        raise ValueError(
            f'features.text: expected none with the objective "{job.learner.objective}", whose built-in model '
            "takes no text; leave it out"
        )


def _check_slices(job: JobSections) -> None:
    slices, values = job.features.slices, job.features.slice_values or {}
    if twice := sorted({name for name in slices if slices.count(name) > 1}):
        raise ValueError(f"features.slices: expected every column once, got {twice[0]} twice; take one out")
    if label := [name for name in slices if name in job.features.labels]:
        raise ValueError(
            f"features.slices: expected columns other than the label, got {label[0]}, within whose values there is "
            "nothing to predict; take it out"
        )
    if unnamed := [name for name in values if name not in slices]:
        raise ValueError(
            f"features.slice_values: expected values of the columns in features.slices, got those of {unnamed[0]}; "
            "add it there, or take it out"
        )


def _check_keys_of_objectives(job: JobSections) -> None:
    for key, given, objective in (
        ("item", bool(job.features.item), "ranking"),
        ("capacity", job.features.capacity is not None, "multiclass"),
        ("vocabulary", job.features.vocabulary is not None, "next_token"),
    ):
        if key == "item" and job.features.ids:  # they say which of the ids is recommended
            continue
        if given and job.learner.objective != objective:
            raise ValueError(
                f'features.{key}: expected with the objective "{objective}" only, got it with '
                f'"{job.learner.objective}"; leave it out'
            )
