"""Time: int64 microseconds since 1970 UTC, for every type of time column.

Accepted columns: timestamps of any unit and zone (without a zone they are UTC, or in the job's zone), dates, ISO 8601
text, and numbers as epoch seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from incr_core.errors import ArgumentError, StreamError

__all__ = [
    "FEW",
    "NAIVE",
    "NEVER",
    "SECOND",
    "Instants",
    "duration",
    "instant",
    "instants",
    "is_duration",
    "label",
    "leaps",
    "readable",
]

SECOND = 1_000_000
"""One second, in microseconds."""

FEW = 32
"""The rows from which on a part of a stream is judged by its own times alone (`leaps`)."""

NEVER = int(np.iinfo(np.int64).max)
"""Later than every time: the label time of a row that never gets a label."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"\s*(\d+)\s*([smhdw])\s*")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NAIVE = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?)?"
_ISO = NAIVE + r"(Z|[+-]\d\d:?\d\d)?$"
# Seconds after the year 9999; larger numbers are milliseconds.
_LAST_SECOND = 253_402_300_799
_FIRST_SECOND = -62_135_596_800
_OUTSIDE = "outside the years 1 to 9999"
_OUTSIDE_TEXT = r"^(\d{5,}-|-\d|0000-|<value out of range)"  # the form in which Arrow writes such times
_PER_SECOND = {"s": 1, "ms": 1000, "us": SECOND}  # int64 nanoseconds end in 2262


@dataclass(slots=True)
class Instants:
    """A time column that was read.

    Attributes:
        values: Microseconds (n,).
        known: Whether each value is present, (n,) bool.
        wrong: Whether each row holds something other than a time, (n,) bool.
        got: Description of such rows.
        zoned: Whether the times have a zone; None without times, and for epoch seconds, which need none.
    """

    values: np.ndarray[Any, np.dtype[np.int64]]
    known: np.ndarray[Any, np.dtype[np.bool_]]
    wrong: np.ndarray[Any, np.dtype[np.bool_]]
    got: str = "text"
    zoned: bool | None = None


def is_duration(text: str) -> bool:
    """Whether a text is a duration above 0, as `duration` reads it.

    >>> is_duration("90s"), is_duration("0s"), is_duration("file")
    (True, False, False)
    """
    match = _DURATION.fullmatch(text)
    return match is not None and int(match[1]) > 0


def duration(text: str, place: str = "stream.every") -> int:
    """Return the microseconds of a duration such as "15m", "1h", "1d" or "7d".

    Raises:
        ArgumentError: The text is not a duration.

    Example:
        >>> duration("1h") // SECOND
        3600
        >>> duration("1x")
        Traceback (most recent call last):
        ...
        incr_core.errors.ArgumentError: stream.every: expected a duration such as "15m", "1h" or "1d", got '1x'
    """
    match = _DURATION.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ArgumentError(f'{place}: expected a duration such as "15m", "1h" or "1d", got {text!r}')
    return int(match[1]) * _UNITS[match[2]] * SECOND


def instant(text: str, place: str = "stream.warm_start", zone: str | None = None) -> int:
    """Return the microseconds of an ISO 8601 time; without a zone it is in `zone`, by default UTC.

    Raises:
        ArgumentError: The text is not a time.

    Example:
        >>> label(instant("2013-02-01T05:00"), duration("1h"))
        '2013-02-01 05:00'
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentError(f'{place}: expected an ISO time such as "2013-02-01", got {text!r}') from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone) if zone else UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def label(time: int, every: int) -> str:
    """Return the name of the tick that begins at `time`, with the precision that ticks of length `every` need.

    Example:
        >>> label(0, duration("1d")), label(0, duration("30s"))
        ('1970-01-01', '1970-01-01 00:00:00')
    """
    # A tick of weeks may begin before the year 1.
    moment = _EPOCH + timedelta(microseconds=max(time, _FIRST_SECOND * SECOND))
    if every % (86400 * SECOND) == 0:
        return f"{moment:%Y-%m-%d}"
    return f"{moment:%Y-%m-%d %H:%M}" if every % (60 * SECOND) == 0 else f"{moment:%Y-%m-%d %H:%M:%S}"


def instants(column: pa.ChunkedArray, place: str) -> Instants:
    """Read a time column; `place` names column and file in errors.

    Example:
        >>> instants(pa.chunked_array([["2013-02-01 05:00", None, "soon"]]), "day.csv").known
        array([ True, False, False])
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = pc.cast(column, kind.value_type)
        kind = column.type
    wrong = np.zeros(len(column), dtype=bool)
    got = "text"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        good = pc.fill_null(pc.match_substring_regex(column, _ISO), False)
        wrong = _numpy(pc.and_(pc.is_valid(column), pc.invert(good)))
        if wrong.any():
            outside = _numpy(pc.fill_null(pc.match_substring_regex(column, _OUTSIDE_TEXT), False))
            got = _OUTSIDE if outside[wrong].all() else got
        column = _from_text(pc.if_else(good, column, pa.scalar(None, kind)), place)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        seconds = pc.cast(column, pa.float64())
        sane = pc.and_(
            pc.greater_equal(seconds, float(_FIRST_SECOND)),
            pc.less_equal(seconds, float(_LAST_SECOND)),
        )
        sane = pc.fill_null(sane, False)
        wrong = _numpy(pc.and_(pc.is_valid(column), pc.invert(sane)))
        got = "no epoch seconds (milliseconds?)"
        if pa.types.is_integer(kind):  # exact, where a float would lose microseconds
            whole = pc.if_else(sane, pc.cast(column, pa.int64()), pa.scalar(None, pa.int64()))
            column = pc.multiply(whole, SECOND)
        else:
            micros = pc.round(pc.multiply(seconds, float(SECOND)))
            column = pc.cast(pc.if_else(sane, micros, pa.scalar(None, pa.float64())), pa.int64())
    elif pa.types.is_null(kind):
        column = pc.cast(column, pa.int64())
    elif not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise StreamError(
            f"{place}: expected a time (timestamp, date, ISO text or epoch seconds), got {kind}; "
            "name another column or convert this one"
        )
    zoned = None
    if not pa.types.is_integer(column.type):
        zoned = pa.types.is_timestamp(column.type) and column.type.tz is not None
        inside = _inside(column)
        if not pc.all(inside, min_count=0).as_py():
            got = got if wrong.any() else _OUTSIDE
            wrong |= ~_numpy(inside)
            column = pc.if_else(inside, column, pa.scalar(None, column.type))
        column = pc.cast(_microseconds(column), pa.int64())
    known = _numpy(pc.is_valid(column))
    return Instants(_numpy(pc.fill_null(column, 0)), known, wrong, got, zoned if known.any() else None)


def readable(table: pa.Table) -> pa.Table:
    """Convert columns with times outside the years 1 to 9999 to text, because Python cannot represent such times.

    Example:
        >>> readable(pa.table({"at": pa.array([0, 253402300800], pa.timestamp("s"))}))["at"].to_pylist()
        ['1970-01-01 00:00:00', '10000-01-01 00:00:00']
    """
    for place, field in enumerate(table.schema):
        kind = field.type
        if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            continue
        column = table.column(place)
        if not pc.all(_inside(column), min_count=0).as_py():
            if pa.types.is_timestamp(kind):
                column = pc.cast(column, pa.timestamp(kind.unit))  # in UTC, like times without a zone
            words = pc.cast(column, pa.string())
            if pa.types.is_timestamp(kind) and kind.tz is not None:  # Arrow cannot format such times with a zone
                words = pc.binary_join_element_wise(words, "Z", "")
            table = table.set_column(place, field.name, words)
    return table


def _inside(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each time is in the years 1 to 9999; nulls count as inside."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        unit = _PER_SECOND.get(kind.unit)
        if unit is None:
            return pa.chunked_array([pa.repeat(True, len(column))])
        first, last = _FIRST_SECOND * unit, (_LAST_SECOND + 1) * unit - 1
        numbers = pc.cast(column, pa.int64())
    elif pa.types.is_date32(kind):
        first, last = _FIRST_SECOND // 86400, _LAST_SECOND // 86400
        numbers = pc.cast(column, pa.int32())
    else:
        first, last = _FIRST_SECOND * 1000, _LAST_SECOND * 1000
        numbers = pc.cast(column, pa.int64())
    low, high = pa.scalar(first, numbers.type), pa.scalar(last, numbers.type)
    return pc.fill_null(pc.and_(pc.greater_equal(numbers, low), pc.less_equal(numbers, high)), True)


def _microseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    # Nanoseconds are truncated, never rounded up: a label must not become known earlier than it was.
    return pc.cast(column, pa.timestamp("us", tz=zone), safe=False)


def _from_text(column: pa.ChunkedArray, place: str) -> pa.ChunkedArray:
    try:
        return pc.cast(column, pa.timestamp("us"))
    except pa.ArrowInvalid:
        pass
    try:
        return pc.cast(column, pa.timestamp("us", tz="UTC"))
    except pa.ArrowInvalid as error:
        raise StreamError(
            f"{place}: expected ISO times, all with a zone or all without, got a mixture or an impossible date "
            f"({error}); write them alike"
        ) from None


def _numpy(column: pa.ChunkedArray) -> Any:
    return column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()


def leaps(
    times: Instants, limit: int | None, earlier: np.ndarray[Any, np.dtype[np.int64]] | None = None
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return whether each of a column's times leaps ahead, (n,).

    These are the times after the first gap of more than `limit` microseconds that follows the median, in the order of
    time. Each of them is more than `limit` ahead of the median, and no other times are between: typical of a typing
    mistake or a wrong clock, but not of years of rows in one file. The result depends on these times alone.

    earlier: the times of the rows before. The last of them take part, so that there are `FEW` times in all. Without
    them, the median of a single row is the row itself.

    >>> day = 86_400_000_000
    >>> times = Instants(np.array([1, 2, 9999, 3]) * day, np.full(4, True), np.full(4, False))
    >>> leaps(times, 366 * day)
    array([False, False,  True, False])
    >>> leaps(Instants(np.array([9999]) * day, np.full(1, True), np.full(1, False)), 366 * day, np.array([2, 3]) * day)
    array([ True])
    """
    values = times.values[times.known]
    if earlier is not None and 0 < len(values) < FEW:
        values = np.concatenate([earlier[max(0, len(earlier) - FEW + len(values)) :], values])
    # Most columns are too short in time to hold such a gap.
    if limit is None or len(values) < 2 or int(values.max()) - int(values.min()) <= limit:
        return np.zeros(len(times.values), dtype=bool)
    ordered = np.sort(values)
    middle = (len(ordered) - 1) // 2
    gaps = np.flatnonzero(np.diff(ordered[middle:]) > limit)
    if not len(gaps):
        return np.zeros(len(times.values), dtype=bool)
    found: np.ndarray[Any, np.dtype[np.bool_]] = times.known & (times.values > ordered[middle + int(gaps[0])])
    return found
