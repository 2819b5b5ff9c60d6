"""Rows that a model cannot take: an error in a forward is told with the rows that it is of."""

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
"""Rows that are looked for, and named, at most."""


@contextmanager
def taken(learner: Learner, stream: Stream, rows: Batch) -> Iterator[None]:
    """Within, these rows go through the learner's model. StreamError that names those which it cannot take alone.

    An error that no row is to blame for stays what it is; so does one in a shard, which can ask nothing by itself.
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
