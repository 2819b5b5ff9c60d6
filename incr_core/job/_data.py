"""The data of a job: the source of its rows, their encoding and the stream of increments."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from incr_core.data.encoding import (
    MOST_WORDS,
    Columns,
    Encoder,
    Slices,
    find_classes,
    frequent_values,
    list_widths,
    words_wanted,
)
from incr_core.data.rates import Rate
from incr_core.data.sources import (
    SOURCES,
    FileSource,
    PythonSource,
    SharedReads,
    Source,
    await_files,
    open_source,
    seconds,
)
from incr_core.data.timeline import KEY_WINDOW, Partition, Stream, Turns
from incr_core.errors import JobError, StreamError
from incr_core.job._columns import columns_of, is_open
from incr_core.job._file import OBJECT, JobFile
from incr_core.job._prepared import prepare_of, with_types
from incr_core.job._pretrained_text import encoder_hash, learns_encoder, pretrained_of
from incr_core.storage import address_in, is_address

__all__ = ["discovered", "encoder_of", "opened", "rates_of", "rows_in_files", "slices_of", "source_of", "stream_of"]

TASKED = ("task_heads", "experts")
"""Adaptations whose model takes the task of each row."""


def source_of(job: JobFile) -> str | Callable[..., Any]:
    """The source of the rows: a path relative to the job's folder, an address, or a function that yields them."""
    path = job.stream.path
    if job.federated.owned:
        raise StreamError(
            "stream.path: expected rows here, got a job whose rows are with their owners (federated.superlink); for "
            "rows of this machine, set federated={} and stream.path"
        )
    if path.startswith(OBJECT):
        return job.named(path, "stream.path", SOURCES)
    module, _, name = path.partition(":")
    of_module = name.isidentifier() and module.replace(".", "_").isidentifier()
    if (of_module or (path.isidentifier() and path in SOURCES.plugins())) and not Path(job.root, path).exists():
        return job.named(path, "stream.path", SOURCES)
    return path if is_address(path) else str(Path(job.root, Path(path).expanduser()))


def discovered(job: JobFile, settled: Mapping[str, Any]) -> tuple[dict[str, Any], Columns]:
    """Return the document of a job completed from its data, and the kinds of the columns with reasons.

    The data decides the absolute path, the columns, the lengths of lists and the classes.

    It waits for files that are still being written. settled: the features of a run that has begun, which are what they
    were when it did, whatever the data holds now. Raises StreamError where the data cannot be looked at, JobError where
    it may have no end to look for.
    """
    document = job.document()
    if job.federated.owned:
        if (encoder := encoder_hash(job)) is not None:
            document["model"]["encoder_sha256"] = encoder
        return _told(job, document), Columns()
    settle = seconds(job.stream.settle)
    await_files(opened(job), settle)
    source = source_of(job)
    if isinstance(source, str):
        whole = address_in(source) if is_address(source) else str(Path(source).absolute())
        source = document["stream"]["path"] = whole
    job = with_types(job, settled, source)
    if job.features.prepare_types is not None:
        document["features"]["prepare_types"] = job.features.prepare_types
    features, objective, format = job.features, job.learner.objective, job.stream.file_format
    columns = columns_of(job, settled, source)
    if is_open(job):
        document["features"] |= {"numeric": columns.numeric, "categorical": columns.categorical, "text": columns.text}
        document["features"]["exclude"] = settled.get("exclude", [*columns.left_out])
    if (encoder := encoder_hash(job)) is not None:
        document["model"]["encoder_sha256"] = encoder
    elif columns.text and features.text_words is None:
        document["features"]["text_words"] = settled.get("text_words") or _words(job, source, columns.text)
    if features.classes is None and objective == "multilabel" and len(features.labels) > 1:
        document["features"]["classes"] = features.labels
    elif _finds_classes(job):
        if not isinstance(source, str) and objective != "binary" and not PythonSource(source).finite:
            raise JobError(
                f"features.classes: expected the classes by name where stream.path is a function ({job.stream.path}), "
                "whose rows may never end, got none; name them"
                + (", or set features.capacity to the most there may be" if objective == "multiclass" else "")
            )
        tolerant = features.tolerates_bad_files
        classes = settled.get("classes") or find_classes(
            source,
            features.labels[0],
            objective=objective,
            format=format,
            tolerant=tolerant,
            settle=settle,
            prepare=prepare_of(job),
        )
        document["features"]["classes"] = classes
    if features.slices:
        document["features"]["slice_values"] = _slice_values(job, source, settled.get("slice_values") or {})
    with contextlib.suppress(StreamError):  # the participants with the rows will report the fault
        document["features"]["widths"] = _widths(
            JobFile.from_document(document, objects=job.objects_given), settled.get("widths")
        )
    return document, columns


def _words(job: JobFile, source: Any, columns: Sequence[str]) -> int:
    """The number of words of a text that count: enough for nearly all of the first rows, within bounds."""
    return words_wanted(_opened(job, source).head(columns))


def _slice_values(job: JobFile, source: Any, settled: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """The values that each sliced column is divided by: those of the job, of the run that has begun, or the most
    frequent of the files' first rows."""
    named = {**settled, **(job.features.slice_values or {})}
    asked = [name for name in job.features.slices if name not in named]
    if asked:
        opened = _opened(job, source)
        tables = list(opened.heads(asked)) if isinstance(opened, FileSource) else [opened.head(asked)]
        named |= {name: frequent_values(tables, name) for name in asked}
        if empty := [name for name in asked if not named[name]]:
            raise JobError(
                f"features.slices: expected a column with values among the first rows, got none in {empty[0]}; name "
                "its values in features.slice_values, or leave it out"
            )
    return {name: named[name] for name in job.features.slices}


def slices_of(job: JobFile) -> Slices | None:
    """The slices of the stream, or None if the job names none."""
    values = job.features.slice_values or {}
    return Slices({name: values.get(name, ()) for name in job.features.slices}) if job.features.slices else None


def _told(job: JobFile, document: dict[str, Any]) -> dict[str, Any]:
    """The document of a job whose rows are elsewhere. It must set all keys that the data would decide."""
    features, objective = job.features, job.learner.objective
    missing = []
    if is_open(job) and not features.text and not features.date:
        missing.append("features.numeric and features.categorical: the columns to learn from")
    if objective == "multilabel" and features.classes is None and len(features.labels) > 1:
        document["features"]["classes"] = features.labels
    elif _finds_classes(job):
        missing.append("features.classes: the classes" + (" or features.capacity" if objective == "multiclass" else ""))
    if objective == "next_token" and features.labels[0] not in (features.widths or {}):
        missing.append(f"features.widths: how long the lists of {features.labels[0]} are")
    missing += [
        f"features.slice_values: the values of {name}"
        for name in features.slices
        if name not in (features.slice_values or {})
    ]
    if missing:
        raise JobError(
            f"{'; '.join(missing)}; expected by name with federated.superlink, where this host has no rows to look at"
        )
    document["features"]["widths"] = features.widths or {}
    return document


def _widths(job: JobFile, settled: Mapping[str, int] | None = None) -> dict[str, int]:
    """The lengths of the columns' lists, from the job, from the run that has begun, or else from the data."""
    known = job.features.widths or {}
    if settled is not None:
        return {**settled, **known}
    listed = job.features.labels if job.learner.objective == "next_token" else job.features.numeric
    asked = [name for name in listed if name not in known]
    return (list_widths(_source(job), asked) if asked else {}) | known


def _finds_classes(job: JobFile) -> bool:
    """Return whether the data decides the classes. With a capacity they are numbers, and more may come."""
    if job.features.classes is not None:
        return False
    objective = job.learner.objective
    return objective in ("binary", "multilabel") or (objective == "multiclass" and job.features.capacity is None)


def encoder_of(job: JobFile) -> Encoder:
    """The encoder of rows into tensors. For a job that is not resolved, the data decides the lengths of lists."""
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
        widths=_widths(job) if features.widths is None else features.widths,
        date=features.date,
        text=features.text,
        text_buckets=features.text_buckets,
        text_words=features.text_words or MOST_WORDS,
        id_columns=features.ids,
        pretrained=pretrained_of(job),
        tokenised=learns_encoder(job),
    )


def _tasks_told(job: JobFile) -> int | None:
    """The number of tasks that the model has room for, if it takes the task of each row."""
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


def stream_of(
    job: JobFile,
    encoder: Encoder,
    part: Partition | None = None,
    reads: SharedReads | None = None,
    turns: Turns | None = None,
    called: Mapping[str, str] | None = None,
) -> Stream:
    """The stream, or one owner's part of it; reads, turns: shared with other owners' in this process, and in others.

    called: column -> what it is called in the files, where that is not its name.
    """
    return Stream(
        source_of(job),
        encoder=encoder,
        every=job.stream.every,
        format=job.stream.file_format,
        order=job.stream.order,
        predict_at=job.stream.predict_at,
        label_at=job.stream.label_at,
        warm_start=job.stream.warm_start,
        max_leap=job.stream.max_leap,
        time_zone=job.stream.time_zone,
        on_bad_row=job.features.on_bad_row,
        on_bad_file=job.features.on_bad_file,
        settle=seconds(job.stream.settle),
        key=job.stream.keys,
        key_window=KEY_WINDOW if job.stream.key_window is None else job.stream.key_window,
        rates=rates_of(job),
        partition=part,
        reads=reads,
        turns=turns,
        slices=slices_of(job),
        called=called,
        prepare=prepare_of(job),
    )


def opened(job: JobFile) -> Source | None:
    """The current files of the stream; None if they cannot be listed."""
    try:
        return _source(job)
    except StreamError:  # the stream will report the fault if it still needs the files
        return None


def _source(job: JobFile) -> Source:
    return _opened(job, source_of(job))


def _opened(job: JobFile, source: Any) -> Source:
    return open_source(
        source,
        job.stream.file_format,
        tolerant=job.features.tolerates_bad_files,
        settle=seconds(job.stream.settle),
        prepare=prepare_of(job),
    )


def rows_in_files(job: JobFile) -> int | None:
    """The number of rows in the stream's files, if their format gives it without reading them."""
    if job.federated.owned or not isinstance(path := source_of(job), str):
        return None
    source = open_source(path, job.stream.file_format)
    paths = list(getattr(source, "paths", {}).values())
    if not paths or not all(isinstance(path, Path) and path.name.endswith((".parquet", ".pq")) for path in paths):
        return None  # of objects in a store, each footer costs a question or two
    try:
        return sum(int(pq.read_metadata(path).num_rows) for path in paths)
    except (OSError, pa.ArrowInvalid):  # the stream will report the fault
        return None
