"""Consistency checks between the files of a stream: types whose difference would silently change the meaning of values.

A time without a zone is not a time with one, a number of seconds is not a date, and true and 1 have different hashes.
Other types mean the same in every file: units of time, widths of numbers and of text, dictionaries, decimals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from incr_core.errors import StreamError

__all__ = ["Alike", "kind_of"]

ZONED, NAIVE, NUMBERS, FLAGS = "times with a time zone", "times without one", "numbers", "true and false"
DURATIONS, CLOCKS = "durations", "times of day"

TIMES = "times"
"""The key shared by all columns of times that say when rows arrive or when something is known."""


def kind_of(kind: pa.DataType, *, numeric: bool) -> str | None:
    """Return the kind of values of a type in a numeric or categorical column; None if it is compatible with every kind.

    Example:
        >>> kind_of(pa.timestamp("ns", "UTC"), numeric=True), kind_of(pa.decimal128(5), numeric=True)
        ('times with a time zone', 'numbers')
    """
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return ZONED
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return NAIVE
    if pa.types.is_duration(kind):
        return DURATIONS
    if pa.types.is_time(kind):
        return CLOCKS
    if pa.types.is_boolean(kind):
        return NUMBERS if numeric else FLAGS  # as numbers they are 0 and 1
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return NUMBERS
    # A numeric column reads text as numbers; in a categorical column, text may represent any type.
    return NUMBERS if numeric and (pa.types.is_string(kind) or pa.types.is_large_string(kind)) else None


class Alike:
    """The kind of values of each column so far, and the first file that contained it; immutable.

    Attributes:
        seen: The same as JSON, for cursors.

    Example:
        >>> alike = Alike().after("a.parquet", {"x": "numbers"}, {})
        >>> alike.after("b.parquet", {"x": "durations"}, {})
        Traceback (most recent call last):
        ...
        incr_core.errors.StreamError: b.parquet: expected numbers in column "x", as in a.parquet, got durations;
        write them alike
    """

    def __init__(self, seen: Mapping[str, Sequence[str]] | None = None) -> None:
        self.seen: dict[str, list[str]] = {name: list(found) for name, found in (seen or {}).items()}

    def after(self, file: str, features: Mapping[str, str | None], times: Mapping[str, bool | None]) -> Alike:
        """Return the state after the columns of one more file.

        Args:
            file: The name of the file.
            features: Column -> kind of its values.
            times: Column -> whether its times have a zone; None if unknown.

        Raises:
            StreamError: The columns are not consistent with those of earlier files.
        """
        seen = dict(self.seen)
        for name, held in features.items():
            if held is not None:
                first = seen.setdefault(f"column {name}", [held, name, file])
                if first[0] != held:
                    raise _unlike(file, name, held, first)
        for name, held in _zones(times):
            first = seen.setdefault(TIMES, [held, name, file])
            if first[0] != held:
                raise _unlike(file, name, held, first)
        return Alike(seen)


def _zones(times: Mapping[str, bool | None]) -> Iterable[tuple[str, str]]:
    return ((name, ZONED if zoned else NAIVE) for name, zoned in times.items() if zoned is not None)


def _unlike(file: str, name: str, held: str, first: Sequence[str]) -> StreamError:
    before, column, where = first
    in_column = "" if column == name else f'column "{column}" of '
    remedy = "write them alike"
    if {held, before} == {ZONED, NAIVE}:
        remedy += ', or begin a run with stream.time_zone = "UTC", or whatever zone those without one mean'
    return StreamError(f'{file}: expected {before} in column "{name}", as in {in_column}{where}, got {held}; {remedy}')
