"""The columns that a job learns from: as named in the job, or else as found in the data, with a summary by kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from incr_core.data.encoding import Columns, check_excluded, column_kinds
from incr_core.data.sources import open_source, seconds
from incr_core.job._file import JobFile
from incr_core.job._prepared import prepare_of
from incr_core.shown import shown

__all__ = ["columns_of", "is_open", "told_columns"]

Where = str | Path | Callable[[], Iterable[Any]]

MOST_TOLD = 12
"""Number of columns of a kind that the summary names."""


def is_open(job: JobFile) -> bool:
    """Return whether the data decides which columns the job learns from."""
    features = job.features
    named = features.numeric or features.categorical or features.ids
    return not named and job.learner.objective != "next_token"


def columns_of(job: JobFile, settled: Mapping[str, Any], source: Where) -> Columns:
    """The columns that a job learns from, named or found.

    settled: the features of a run that has begun, which stay what they are.
    """
    features = job.features
    if not is_open(job):
        if features.exclude and not settled:
            tolerant, settle = features.tolerates_bad_files, seconds(job.stream.settle)
            check_excluded(
                open_source(source, job.stream.file_format, tolerant=tolerant, settle=settle, prepare=prepare_of(job)),
                features.exclude,
            )
        return Columns(features.numeric, features.categorical, features.text)
    if "numeric" in settled and "categorical" in settled:
        return Columns(settled["numeric"], settled["categorical"], settled.get("text", features.text))
    taken = {*features.labels, features.weight, features.task, job.stream.predict_at, job.stream.label_at}
    found = column_kinds(
        source,
        taken.union(job.stream.keys, features.text, features.date),
        exclude=features.exclude,
        format=job.stream.file_format,
        tolerant=features.tolerates_bad_files,
        settle=seconds(job.stream.settle),
        prepare=prepare_of(job),
    )
    takes_text = job.model.factory is None and job.model.kind != "auto"
    if job.learner.objective == "ranking" or (job.model.encoder is None and not takes_text):
        # Models that take no text.
        categorical = [name for name in found.notes if name in found.categorical or name in found.text]
        found = replace(found, categorical=categorical, text=[])
    return replace(found, text=[*features.text, *found.text])


def told_columns(document: Mapping[str, Any], columns: Columns | None = None) -> dict[str, str]:
    """Summarise the label and the features of a run by kind of column: {"numbers": "height, weight", ...}.

    document: the document of a resolved job. columns: the columns with the reasons for their kinds, if known.

    >>> job = {"features": {"label": "y", "numeric": ["x"]}, "learner": {"objective": "binary"}}
    >>> told_columns(job, Columns(left_out={"at": "a time"}))
    {'label': 'y (binary)', 'numbers': 'x', 'left out': 'at (a time)'}
    """
    columns = columns or Columns()
    features, kind = document["features"], document["learner"]["objective"]
    classes = features.get("classes")
    if classes is not None and kind != "regression":
        some = ", ".join(str(name) for name in classes[:5]) + ", ..." * (len(classes) > 5)
        kind = f"{kind}, {len(classes)} classes: {some}"
    label = features["label"]

    def named(key: str) -> dict[str, str]:
        return {name: columns.notes.get(name, "") for name in features.get(key, ())}

    kinds = {
        "label": dict.fromkeys([label] if isinstance(label, str) else label, kind),
        "numbers": named("numeric"),
        "categories": named("categorical"),
        "text": named("text"),
        "dates": named("date"),
        "ids": named("ids"),
        "left out": columns.left_out or dict.fromkeys(features.get("exclude", ()), ""),
    }
    return {what: _listed(found) for what, found in kinds.items() if found}


def _listed(found: Mapping[str, str]) -> str:
    named = [shown(name, 60) + f" ({shown(why, 120)})" * bool(why) for name, why in found.items()]
    more = f", and {len(named) - MOST_TOLD} more" if len(named) > MOST_TOLD else ""
    return ", ".join(named[:MOST_TOLD]) + more
