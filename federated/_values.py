"""Checks of single values in a client's answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from federated._asked import Refused
from incr_core.numerics import all_finite
from incr_core.shown import shown

__all__ = ["LATEST", "MOST", "MOST_NAMES", "check_coming", "check_finite", "is_time"]

MOST = 1 << 24
"""Rows that a client may tell of in an increment, and numbers in a sum of its."""

MOST_NAMES = 100
"""Losses and tasks in an answer."""

LATEST = 1 << 62
"""No time is later, in microseconds."""


def check_coming(coming: Any) -> None:
    if coming is not None and not is_time(coming["time"]):
        raise Refused(f"coming = {shown(repr(coming['time']), 40)}, where a time was expected")


def is_time(value: Any) -> bool:
    return type(value) is int and abs(value) < LATEST


def check_finite(tensors: Mapping[Any, Tensor]) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() and not all_finite(value):
            raise Refused(f"{name} has values that are not finite")
