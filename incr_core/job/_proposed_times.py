"""The clock of a proposed stream: the column with the time of prediction, and the duration of an increment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from incr_core.data import in_zone
from incr_core.data.times import NAIVE, SECOND, Instants, duration, instants
from incr_core.errors import StreamError

__all__ = ["ProposedTimes", "rows_an_increment", "times_of"]

Ints = np.ndarray[Any, np.dtype[np.int64]]

_ARRIVES = re.compile(r"(at|time|timestamp|ts|date|datetime|day|when|created.*|.*_at|.*_ts|.*timestamp)", re.IGNORECASE)
_OF_ITS_OWN = re.compile(r".*(birth|dob|born|hire|expir|due|until|valid|built|founded|released).*", re.IGNORECASE)
_EPOCH_NAME = re.compile(r"(at|time|timestamp|ts|epoch|unix.*|.*_(at|ts|time|timestamp))", re.IGNORECASE)
_EPOCH = range(300_000_000, 4_000_000_000)
"""Seconds since 1970 that are taken for times: of the years 1979 to 2096."""

_NAIVE, _ZONED = f"{NAIVE}$", rf"{NAIVE}(Z|[+-]\d{{2}}:?\d{{2}}|[+-]\d{{2}})$"
"""Times as text, without a zone and with one."""

TICKS = ["1m", "10m", "1h", "6h", "1d", "7d", "28d"]
MOST_TICKS = 400
FEWEST_ROWS = 20
"""The shortest of these durations that cuts a stream into at most so many increments, of so many rows."""


@dataclass(slots=True)
class ProposedTimes:
    """The column that orders a stream, how long its increments are, and the columns of times that are later still.

    without_zone: columns in which times with a zone stand among others without one -> how many are without.
    """

    predict_at: str | None = None
    every: str = ""
    later: list[str] = field(default_factory=list)
    without_zone: dict[str, int] = field(default_factory=dict)


def times_of(columns: Mapping[str, pa.ChunkedArray]) -> ProposedTimes:
    """Choose the column that orders a stream, among columns of times and of numbers that may be epoch seconds.

    Candidates are columns whose times never decrease from row to row, columns with a usual name, or the only column.
    The earliest of them is chosen.

    >>> times_of({"sent": pa.chunked_array([pa.array([0, 60, 120], pa.timestamp("s"))])}).predict_at
    'sent'
    """
    mixed = {name: count for name, column in columns.items() if (count := _without_zone(column))}
    columns = {
        name: in_zone(column, "UTC", late=False) if name in mixed else column for name, column in columns.items()
    }
    read = {name: found for name, column in columns.items() if (found := _read(name, column)) is not None}
    mixed = {name: count for name, count in mixed.items() if name in read}
    good = {name: found for name, found in read.items() if _is_clock(name, found, alone=len(read) == 1)}
    if not good:
        return ProposedTimes(without_zone=mixed)
    ahead = {name: sum(_share_later(other, found) > 0.5 for other in good.values()) for name, found in good.items()}
    first = max(good, key=lambda name: (ahead[name], _never_back(good[name]), bool(_ARRIVES.fullmatch(name))))
    later = [name for name, found in read.items() if name != first and _share_later(found, good[first]) > 0.5]
    return ProposedTimes(first, _every(good[first]), later, mixed)


def _without_zone(column: pa.ChunkedArray) -> int:
    """The number of times without a zone in a column of text, if others have one; else 0."""
    if not pa.types.is_string(column.type):
        return 0
    naive, zoned = (int(pc.sum(pc.match_substring_regex(column, sign)).as_py() or 0) for sign in (_NAIVE, _ZONED))
    return naive if zoned else 0


def _read(name: str, column: pa.ChunkedArray) -> Instants | None:
    kind = column.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_string(kind)):
        if not pa.types.is_integer(kind) or not _EPOCH_NAME.fullmatch(name):
            return None
        values = column.drop_null().to_numpy()
        if not len(values) or values.min() < _EPOCH.start or values.max() >= _EPOCH.stop:
            return None
    try:
        found = instants(column, name)
    except StreamError:
        return None
    return found if found.known.any() and found.wrong.mean() < 0.1 else None


def _is_clock(name: str, times: Instants, *, alone: bool) -> bool:
    if times.known.mean() < 0.95 or _OF_ITS_OWN.fullmatch(name) or len(np.unique(times.values[times.known])) < 3:
        return False
    return alone or _never_back(times) or _ARRIVES.fullmatch(name) is not None


def _never_back(times: Instants) -> bool:
    return bool((np.diff(times.values[times.known]) >= 0).all())


def _share_later(times: Instants, than: Instants) -> float:
    """In what share of the rows that have both one is after the other."""
    both = times.known & than.known
    return float((times.values[both] > than.values[both]).mean()) if both.any() else 0.0


def _every(times: Instants) -> str:
    values = times.values[times.known]
    span = int(values.max()) - int(values.min())
    for tick in TICKS:
        ticks = max(span // duration(tick), 1)
        if ticks <= MOST_TICKS and len(values) // ticks >= min(FEWEST_ROWS, len(values) // 3):
            return tick
    return TICKS[-1] if span > 100 * 86_400 * SECOND else TICKS[4]


def rows_an_increment(rows: int) -> int:
    """The rows of an increment in a stream without times: about a hundredth of all, a round number.

    >>> rows_an_increment(120), rows_an_increment(20_000), rows_an_increment(10**7)
    (20, 200, 5000)
    """
    wanted = min(max(rows / 100, 20), 5000)
    return next(step for step in (5000, 2000, 1000, 500, 200, 100, 50, 20) if step <= wanted)
