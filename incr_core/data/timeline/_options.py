"""The options of a stream: checks of their combinations, and the meaning of textual values."""

from __future__ import annotations

from collections.abc import Sequence

from incr_core.data import times as clock
from incr_core.data._local_time import LocalTime
from incr_core.data.encoding import Encoder
from incr_core.data.rates import Rate
from incr_core.data.timeline._keys import Learned
from incr_core.errors import ArgumentError

__all__ = ["check_options", "first_cut", "local_time", "no_keys", "tick"]


def check_options(
    predict_at: str | None, label_at: str | None, order: str, rates: Sequence[Rate], encoder: Encoder
) -> None:
    """Raise ArgumentError if the columns of times, the order, the rates and the encoder are inconsistent."""
    if order not in ("time", "file"):
        raise ArgumentError(f'stream.order: expected "time" or "file", got {order!r}')
    if order == "file" and predict_at is not None:
        raise ArgumentError(
            f'stream.order: expected "time" with predict_at = "{predict_at}", got "file", which keeps '
            "the order of the files; leave one of them out"
        )
    if label_at is not None and predict_at is None:
        raise ArgumentError(
            f'stream.label_at: expected a predict_at column too, got label_at = "{label_at}" alone; '
            "name the column that says when a row must be predicted"
        )
    if rates and predict_at is None:
        raise ArgumentError(
            "features.rate: expected a predict_at column, got none; rates are made of labels known before it"
        )
    if rates and encoder.of_tokens:
        raise ArgumentError("features.rate: expected none with the objective next_token, whose inputs are tokens alone")
    if encoder.objective in ("multiclass", "multilabel") and any(rate.outcome is None for rate in rates):
        raise ArgumentError(
            f"features.rate.outcome: expected a column of numbers with a {encoder.objective} objective, got none; "
            "a class has no mean"
        )


def tick(every: str | int, predict_at: str | None) -> int | None:
    """Return the microseconds of a tick; None if an increment is a file or a number of rows.

    Example:
        >>> tick("1h", "at") == 3600 * clock.SECOND, tick(100, None)
        (True, None)
    """
    if isinstance(every, int):
        if every < 1 or isinstance(every, bool):
            raise ArgumentError(f"stream.every: expected at least 1 row, got {every}")
        return None
    if every == "file":
        return None
    length = clock.duration(every)
    if predict_at is None:
        raise ArgumentError(
            f'stream.every: expected a predict_at column with every = "{every}", got none; '
            'name the time column, or use a number of rows or "file"'
        )
    return length


def no_keys(window: str | int, predict_at: str | None) -> Learned:
    """Return an empty set of keys, with a window of time or of rows.

    Example:
        >>> no_keys("1h", "at").timed, no_keys(100, None).timed
        (True, False)
    """
    if isinstance(window, int):
        if window < 1:
            raise ArgumentError(f"stream.key_window: expected at least 1 row or a duration, got {window}")
        return Learned(window, timed=False)
    if predict_at is None:
        raise ArgumentError(
            f'stream.key_window: expected a predict_at column with key_window = "{window}", got none; '
            "name the time column, or give a number of rows"
        )
    return Learned(clock.duration(window, "stream.key_window"), timed=True)


def first_cut(start: str | int | None, predict_at: str | None, zone: str | None) -> tuple[int | None, int | None]:
    """Return the end of the warm start, as a time or a number of rows; (None, None) without a warm start.

    Example:
        >>> first_cut(100, None, None), first_cut("1970-01-01", "at", None)
        ((None, 100), (0, None))
    """
    if start is None:
        return None, None
    if isinstance(start, int):
        if start < 1:
            raise ArgumentError(f"stream.warm_start: expected at least 1 row or a time, got {start}")
        return None, start
    if predict_at is None:
        raise ArgumentError(
            f'stream.warm_start: expected a predict_at column with warm_start = "{start}", got none; '
            "name the time column, or give a number of rows"
        )
    return clock.instant(start, zone=zone), None


def local_time(
    zone: str | None, predict_at: str | None, label_at: str | None, rates: Sequence[Rate] = ()
) -> LocalTime | None:
    """Return the meaning of times without a zone, in the columns that say when a row arrives or something is known.

    Example:
        >>> local_time("Asia/Tokyo", "at", "label_at").late
        frozenset({'label_at'})
    """
    if zone is None:
        return None
    early, late = [predict_at], [label_at, *(rate.known_at for rate in rates)]
    return LocalTime(zone, *(frozenset(name for name in names if name is not None) for names in (early, late)))
