"""Weight and task columns of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from incr_core.data.encoding._columns import Fault, numbers
from incr_core.errors import StreamError

__all__ = ["tasks", "weights"]

Mask = np.ndarray[Any, np.dtype[np.bool_]]


def weights(
    column: pa.ChunkedArray, name: str, place: str, known: Mask
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], list[Fault]]:
    """Return the weights (B,) of rows, and the rows with a bad weight; ones if no label is `known` (B,).

    Example:
        >>> weights(pa.chunked_array([[0.5, -1.0]]), "w", "day.csv", np.array([True, True]))[1][0].index
        array([1])
    """
    if not known.any():
        return np.ones(len(column), dtype=np.float32), []
    values, faults = numbers(column, name, place)
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~(values >= 0) & known)
    if len(wrong):
        faults = [*faults, Fault(wrong, name, "a weight of at least 0", "negative or missing")]
    with np.errstate(over="ignore"):
        return values.astype(np.float32), faults


def tasks(
    column: pa.ChunkedArray, name: str, place: str, count: int | None
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], list[Fault]]:
    """Return the task numbers (B,) of rows, below `count` if given, and the rows with a bad task.

    Example:
        >>> tasks(pa.chunked_array([[0, 2, None]]), "task", "day.csv", 2)[1][0].got
        'missing'
    """
    if not pa.types.is_integer(column.type):
        raise StreamError(
            f"stream.features.{name}: expected integers for the task, got {column.type} in {place}; "
            "number the tasks from 0"
        )
    faults = []
    missing = np.flatnonzero(column.is_null().to_numpy())
    if len(missing):
        faults.append(Fault(missing, name, "a task number", "missing"))
    numbers = column.fill_null(0).to_numpy().astype(np.int64)
    most = np.iinfo(np.int64).max if count is None else count
    strange = np.flatnonzero((numbers < 0) | (numbers >= most))
    if len(strange):
        last = "on" if count is None else f"to {count - 1}"
        faults.append(Fault(strange, name, f"a task number from 0 {last}", "another"))
    return numbers, faults
