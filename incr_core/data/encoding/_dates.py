"""Time columns as model inputs: days since 1970, and the position in the day, the week and the year."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from incr_core.data.encoding._columns import Fault
from incr_core.data.times import SECOND, instants

__all__ = ["PARTS", "date_parts"]

PARTS = 7
"""Number of inputs per time."""

DAY = 86_400.0 * SECOND
WEEK, YEAR = 7.0, 365.2425
EPOCH_IN_ITS_WEEK = 3.0
"""1 January 1970 was a Thursday; a week begins on Monday."""


def date_parts(
    column: pa.ChunkedArray, name: str, place: str
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], list[Fault]]:
    """Return a column of times as (B, 7) float32, with NaN for null, and the rows that hold no time.

    The numbers are days since 1970, then sine and cosine of the time of day, of the day in the week and of the day in
    the year, so that 23:00 is near 01:00. Times with a zone are converted to UTC, others are used as written.

    Example:
        >>> date_parts(pa.chunked_array([["1970-01-01 06:00", None]]), "at", "day.csv")[0][:, :3].round(2).tolist()
        [[0.25, 1.0, 0.0], [nan, nan, nan]]
    """
    read = instants(column, f"stream.features.{name} in {place}")
    days = read.values / DAY
    cycles = [days % 1.0, ((days + EPOCH_IN_ITS_WEEK) % WEEK) / WEEK, (days % YEAR) / YEAR]
    turns = [2 * np.pi * cycle for cycle in cycles]
    parts = np.stack([days, *(wave(turn) for turn in turns for wave in (np.sin, np.cos))], axis=1).astype(np.float32)
    parts[~read.known] = np.nan
    wrong = np.flatnonzero(read.wrong)
    return parts, [Fault(wrong, name, "a time", read.got)] if len(wrong) else []
