"""Checks of what a caller passes, so that everything complains in the same words; `error` is what they raise."""

from __future__ import annotations

import re

from incr_core.errors import ArgumentError, IncrError

__all__ = ["at_least_one", "byte_count", "fraction", "not_negative", "one_of", "positive"]

Refusal = type[IncrError]


def not_negative(place: str, value: float, error: Refusal = ArgumentError) -> float:
    """A strength, a ratio: 0 or more, and 0 turns the thing off.

    >>> not_negative("ewc.strength", -1.0)
    Traceback (most recent call last):
    ...
    incr_core.errors.ArgumentError: ewc.strength: expected 0 or more, got -1.0; 0 turns it off
    """
    if not 0 <= _number(place, value, error) < float("inf"):
        raise error(f"{place}: expected 0 or more, got {value}; 0 turns it off")
    return value


def positive(place: str, value: float, error: Refusal = ArgumentError) -> float:
    """A temperature, a damping: above 0.

    >>> positive("lwf.temperature", 2.0)
    2.0
    """
    if not 0 < _number(place, value, error) < float("inf"):
        raise error(f"{place}: expected a number above 0, got {value}; leave it out for the default")
    return value


def at_least_one(place: str, value: int, error: Refusal = ArgumentError) -> int:
    """A count: 1 or more.

    >>> at_least_one("ewc.every", 2)
    2
    """
    if _number(place, value, error) < 1:
        raise error(f"{place}: expected 1 or more, got {value}; leave it out for the default")
    if value % 1:
        raise error(f"{place}: expected a whole number, got {value}; leave it out for the default")
    return value


def fraction(place: str, value: float, error: Refusal = ArgumentError) -> float:
    """A decay, a share: from 0 to 1.

    >>> fraction("ewc.decay", 1.0)
    1.0
    """
    if not 0 <= _number(place, value, error) <= 1:
        raise error(f"{place}: expected a number from 0 to 1, got {value}; leave it out for the default")
    return value


def byte_count(place: str, size: str, error: Refusal = ArgumentError, instead: str = "") -> int:
    """A size in bytes, such as "64MB" (64,000,000) or "64MiB" (64 * 2^20). `instead`: what else the place takes.

    >>> byte_count("memory.capacity", "1.5 kB"), byte_count("memory.capacity", "2MiB")
    (1500, 2097152)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]i?)?B\s*", size)
    if match is None or float(match[1]) == 0:
        expected = f"{instead}, or a size" if instead else "a size"
        raise error(f'{place}: expected {expected} such as "64MB", got {size!r}; write one above 0')
    prefix = match[2] or ""
    return int(float(match[1]) * (1024 if prefix.endswith("i") else 1000) ** " kmgt".index((prefix[:1] or " ").lower()))


def one_of(place: str, value: str, choices: list[str], error: Refusal = ArgumentError) -> str:
    """A name out of a few.

    >>> one_of("replay.memory", "reservoir", ["balanced", "reservoir"])
    'reservoir'
    """
    if value not in choices:
        raise error(f"{place}: expected one of {', '.join(sorted(choices))}, got {value!r}")
    return value


def _number(place: str, value: float, error: Refusal) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise error(f"{place}: expected a number, got {value!r}; leave it out for the default")
    return value
