"""Types of values that several files share: durations and time zones, checked where a file is read."""

from __future__ import annotations

from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator

from incr_core.data.times import is_duration

__all__ = ["Duration", "Settle", "TickLength", "TimeZone"]


def _duration(value: str) -> str:
    if not is_duration(value):
        raise ValueError(f'expected a duration such as "15m", "1h" or "1d", got {value!r}; change it')
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

TickLength = Annotated[str, AfterValidator(lambda value: value if value == "file" else _duration(value))]
"""A duration, or "file"."""

TimeZone = Annotated[str, AfterValidator(_zone)]
"""The name of a time zone."""
