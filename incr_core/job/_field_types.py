"""Types of values that several files share: durations, sizes and time zones, checked where a file is read."""

from __future__ import annotations

from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator

from incr_core._util import byte_count
from incr_core.data.times import is_duration
from incr_core.errors import ArgumentError

__all__ = ["Duration", "Settle", "Size", "TickLength", "TimeZone"]


def _duration(value: str) -> str:
    if not is_duration(value):
        raise ValueError(f'expected a duration such as "15m", "1h" or "1d", got {value!r}; change it')
    return value


def _size(value: str) -> str:
    try:
        byte_count("size", value)
    except ArgumentError as error:
        raise ValueError(str(error).removeprefix("size: ")) from None
    return value


def _zone(value: str) -> str:
    try:
        return ZoneInfo(value).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f'expected a time zone such as "Europe/Berlin" or "UTC", got {value!r}') from None


Duration = Annotated[str, AfterValidator(_duration)]
"""A duration above 0, such as "1h"."""

Settle = Annotated[str, AfterValidator(lambda value: value if value.strip() == "0s" else _duration(value))]
"""A duration, which may be "0s"."""

Size = Annotated[str, AfterValidator(_size)]
"""A size in bytes above 0, such as "64MB"."""

TickLength = Annotated[str, AfterValidator(lambda value: value if value == "file" else _duration(value))]
"""A duration, or "file"."""

TimeZone = Annotated[str, AfterValidator(_zone)]
"""The name of a time zone."""
