"""What a job says of its data, built: where rows come from, and how they become increments of tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from incr_core.data.encoding import Encoder, column_kinds, find_classes
from incr_core.data.rates import Rate
from incr_core.data.sources import CallableSource, open_source
from incr_core.data.timeline import Partition, Stream
from incr_core.errors import JobError, StreamError
from incr_core.job._file import OBJECT, JobFile

__all__ = ["discovered", "encoder_of", "files_of", "rates_of", "rows_in_files", "source_of", "stream_of"]

TASKED = ("task_heads", "experts")
"""Adaptations that make a model which is told the task of each row."""


def source_of(job: JobFile) -> str | Callable[..., Any]:
    """Where the rows come from: a path, absolute or as written, or a function that yields them."""
    path = job.stream.path
    if path.startswith(OBJECT):
        return job.named(path, "stream.path")
    module, _, name = path.partition(":")
    if name.isidentifier() and module.replace(".", "_").isidentifier() and not Path(job.root, path).exists():
        return job.named(path, "stream.path")
    return path


def discovered(job: JobFile) -> dict[str, Any]:
    """The document of a job with what its data decides filled in: an absolute path, the columns, the classes.

    Raises StreamError where the data cannot be looked at, JobError where it may have no end to look for.
    """
    document = job.document()
    source = source_of(job)
    if isinstance(source, str):
        source = document["stream"]["path"] = str(Path(job.root, source).absolute())
    features, objective, format = job.features, job.learner.objective, job.stream.format
    if not features.numeric and not features.categorical and objective != "next_token":
        taken = {*features.labels, features.weight, features.task, job.stream.predict_at, job.stream.label_at}
        kinds = column_kinds(source, taken, format=format)
        document["features"]["numeric"], document["features"]["categorical"] = kinds
    if features.classes is None and objective == "multilabel" and len(features.labels) > 1:
        document["features"]["classes"] = features.labels
    elif _finds_classes(job):
        if not isinstance(source, str) and objective != "binary" and not CallableSource(source).finite:
            raise JobError(
                f"features.classes: expected the classes by name where stream.path is a function ({job.stream.path}), "
                "whose rows may never end, got none; name them"
                + (", or set features.capacity to the most there may be" if objective == "multiclass" else "")
            )
        classes = find_classes(source, features.labels[0], objective=objective, format=format)
        document["features"]["classes"] = classes
    return document


def _finds_classes(job: JobFile) -> bool:
    """Whether the data says what the classes are; with a capacity they are numbers, and some are yet to come."""
    if job.features.classes is not None:
        return False
    objective = job.learner.objective
    return objective in ("binary", "multilabel") or (objective == "multiclass" and job.features.capacity is None)


def encoder_of(job: JobFile) -> Encoder:
    """How rows become tensors."""
    features = job.features
    return Encoder(
        features.label,
        features.numeric,
        features.categorical,
        objective=job.learner.objective,
        classes=features.classes,
        weight=features.weight,
        buckets=features.buckets,
        task=features.task,
        capacity=features.capacity,
        vocabulary=features.vocabulary,
        tasks=_tasks_told(job),
        guesses=any(step.name == "experts" and step.arguments.get("features") for step in job.model.adapt),
    )


def _tasks_told(job: JobFile) -> int | None:
    """How many tasks the model has room for, where it is told each row's."""
    wanted = [step for step in job.model.adapt if step.name in TASKED]
    if wanted and job.features.task is None:
        raise JobError(
            f"model.adapt {wanted[0].name}: expected a column with the task of each row, got none; "
            "name it in features.task"
        )
    return min((int(step.arguments.get("tasks", 2)) for step in wanted), default=None)


def rates_of(job: JobFile) -> list[Rate]:
    """Features from labels already known."""
    return [rate for section in job.features.rate for rate in section.rates()]


def stream_of(job: JobFile, encoder: Encoder, part: Partition | None = None) -> Stream:
    """The stream, or one owner's part of it."""
    return Stream(
        source_of(job),
        encoder=encoder,
        every=job.stream.every,
        format=job.stream.format,
        order=job.stream.order,
        predict_at=job.stream.predict_at,
        label_at=job.stream.label_at,
        warm_start=job.stream.warm_start,
        on_bad_row=job.features.on_bad_row,
        rates=rates_of(job),
        partition=part,
    )


def files_of(job: JobFile) -> set[str]:
    """The names of the stream's files, as they are now; none where it is a function, or they cannot be looked for."""
    path = source_of(job)
    try:
        return set(open_source(path, job.stream.format).names)
    except StreamError:  # the stream will say what is wrong, if it needs them still
        return set()


def rows_in_files(job: JobFile) -> int | None:
    """How many rows the stream's files hold, where their format tells without reading them."""
    path = source_of(job)
    if not isinstance(path, str):
        return None
    source = open_source(path, job.stream.format)
    paths = [str(path) for path in getattr(source, "paths", {}).values()]
    if not paths or not all(path.endswith((".parquet", ".pq")) for path in paths):
        return None
    try:
        return sum(int(pq.read_metadata(path).num_rows) for path in paths)
    except (OSError, pa.ArrowInvalid):  # the stream will say what is wrong with them
        return None
