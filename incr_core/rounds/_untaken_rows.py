"""Rows that a model rejects: an error in a forward is reported with the rows that cause it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from incr_core.batch import Batch
from incr_core.data import fragment_of, offset_of
from incr_core.data.timeline import Stream
from incr_core.errors import StreamError
from incr_core.learner import OF_ROWS, Learner, may_be_of_rows

__all__ = ["taken"]

TOLD = 5
"""Maximum number of rows that are searched for and named."""


@contextmanager
def taken(learner: Learner, stream: Stream, rows: Batch) -> Iterator[None]:
    """Report errors of the learner's model within the context as StreamErrors that name the rows it rejects alone.

    An error that no single row causes is raised unchanged. So is an error in a shard, which cannot run the model alone.
    """
    try:
        yield
    except OF_ROWS as error:
        if learner.shard[1] > 1 or not len(rows) or not may_be_of_rows(error):
            raise
        untaken = learner.answers(rows.inputs, TOLD - 1)[1]
        if not untaken:
            raise
        assert rows.row_ids is not None, "rows of a stream have ids"
        numbers, offsets = fragment_of(rows.row_ids).tolist(), offset_of(rows.row_ids).tolist()
        named = ", ".join(f"row {offsets[at]} of {stream.fragments[numbers[at]]}" for at in untaken)
        what = "at least those" if len(untaken) == TOLD else "those"
        raise StreamError(
            f"model: expected rows that it can take, got others, {what}: {named} ({next(iter(untaken.values()))}); "
            "correct them or take them out, or look whether the model is at fault"
        ) from error
