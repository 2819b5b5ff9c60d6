"""The function of raw tables that a job names, and the types of its columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from incr_core._util import Catalogue, unknown
from incr_core.data import Prepare, raw_types
from incr_core.data.sources import open_source, seconds
from incr_core.errors import ArgumentError, JobError
from incr_core.job._file import JobFile

__all__ = ["PREPARES", "prepare_of", "with_types"]

PREPARES: Catalogue[Callable[..., Any]] = Catalogue("a function of a table", {}, "incr.prepares")
"""Functions that `features.prepare` can name."""


def prepare_of(job: JobFile) -> Prepare | None:
    """Return the function that all rows of a job pass through, if it names one.

    Raises:
        JobError: There is no such function, or a type is unknown.
    """
    features = job.features
    if features.prepare is None:
        return None
    function = job.named(features.prepare, "features.prepare", PREPARES)
    try:
        return Prepare(function, features.prepare, features.prepare_types)
    except ArgumentError as error:
        raise JobError(f"features.{error}") from None


def with_types(job: JobFile, settled: Mapping[str, Any], source: Any) -> JobFile:
    """Return a job with the types of all its raw columns: its own, and of others those of the first rows.

    A request has the columns that have a type, so no column may be left out. A run that has begun keeps its types.

    Raises:
        JobError: The job names a type of a column that the first rows do not have.
    """
    features = job.features
    if features.prepare is None:
        return job
    types, stated = settled.get("prepare_types"), features.prepare_types or {}
    if types is None:
        tolerant, settle = features.tolerates_bad_files, seconds(job.stream.settle)
        rows = open_source(source, job.stream.file_format, tolerant=tolerant, settle=settle).head()
        if absent := [name for name in stated if name not in rows.column_names]:
            raise JobError(f"features.prepare_types: {unknown('a column of the rows', absent[0], rows.column_names)}")
        types = raw_types(rows)
    document = job.document()
    document["features"]["prepare_types"] = {**types, **stated}
    return JobFile.from_document(document, objects=job.objects_given)
