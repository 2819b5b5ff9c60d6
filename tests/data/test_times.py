"""Time columns of every kind read as the same microseconds."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest

from incr_core.data import times as clock
from incr_core.errors import ArgumentError, StreamError

MOMENT = dt.datetime(2013, 2, 1, 5)
EXPECTED = clock.instant("2013-02-01T05:00")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([MOMENT], pa.timestamp("s")),
        pa.array([MOMENT], pa.timestamp("ns")),
        pa.array([MOMENT], pa.timestamp("ms", tz="America/New_York")),
        pa.array(["2013-02-01 05:00"]),
        pa.array(["2013-02-01T05:00:00.000"]).dictionary_encode(),
        pa.array(["2013-02-01T05:00:00Z"]),
        pa.array(["2013-02-01T07:00:00+02:00"]),
        pa.array([EXPECTED // clock.SECOND]),
        pa.array([EXPECTED / clock.SECOND]),
    ],
)
def test_every_kind_of_time_is_the_same_moment(column: Any) -> None:
    read = clock.instants(pa.chunked_array([column]), "at")
    assert (read.values.tolist(), read.known.tolist(), read.wrong.tolist()) == ([EXPECTED], [True], [False])


def test_dates_begin_at_midnight_and_nulls_are_not_wrong() -> None:
    read = clock.instants(pa.chunked_array([[dt.date(2013, 2, 1), None]]), "at")
    assert read.values[0] == EXPECTED - 5 * 3600 * clock.SECOND
    assert (read.known.tolist(), read.wrong.tolist()) == ([True, False], [False, False])


@pytest.mark.parametrize(
    ("values", "got"), [(["soon", "2013-02-01"], "text"), ([EXPECTED, 0], "no epoch seconds (milliseconds?)")]
)
def test_what_is_no_time_is_wrong(values: list[Any], got: str) -> None:
    read = clock.instants(pa.chunked_array([values]), "at")
    assert (read.wrong.tolist(), read.known.tolist(), read.got) == ([True, False], [False, True], got)


def test_nanoseconds_are_never_rounded_up() -> None:
    read = clock.instants(pa.chunked_array([pa.array([1999], pa.timestamp("ns"))]), "at")
    assert read.values.tolist() == [1]


def test_what_the_clock_refuses() -> None:
    with pytest.raises(StreamError, match=r"at in a.csv: expected ISO times, all with a zone or all without"):
        clock.instants(pa.chunked_array([["2013-02-01T00:00Z", "2013-02-01T00:00"]]), "at in a.csv")
    with pytest.raises(StreamError, match=r"at: expected a time .*, got list"):
        clock.instants(pa.chunked_array([[[1]]]), "at")
    for text in ("1x", "", "0h", "-1h", "h"):
        with pytest.raises(ArgumentError, match=r"stream.every: expected a duration"):
            clock.duration(text)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([-62_135_596_800 * clock.SECOND, 253_402_300_800 * clock.SECOND - 1, 253_402_300_800 * clock.SECOND]),
        pa.array([-62_135_596_800_000, 253_402_300_799_999, 2**62], pa.timestamp("ms", tz="Europe/Berlin")),
        pa.array([-719_162, 2_932_896, 2**31 - 1], pa.date32()),
        pa.array([0, None, -(2**62)], pa.date64()),
        pa.array(["2013-02-01", None, "10000-01-01"]),
        pa.array(["2013-02-01", None, "0000-01-01"]),
    ],
)
def test_times_outside_the_years_1_to_9999_are_wrong(column: Any) -> None:
    if pa.types.is_integer(column.type):
        column = column.cast(pa.timestamp("us"))
    chunked = pa.chunked_array([column])
    for read in (clock.instants(chunked, "at"), clock.instants(clock.readable(pa.table({"at": chunked}))["at"], "at")):
        assert (read.wrong.tolist(), read.got) == ([False, False, True], "outside the years 1 to 9999")
        assert read.known.tolist() == [True, column[1].is_valid, False]
        for moment in read.values[read.known].tolist():
            clock.label(moment // clock.duration("1w") * clock.duration("1w"), clock.duration("1w"))
    assert clock.instants(pa.chunked_array([[-62_135_596_801, 0]]), "at").wrong.tolist() == [True, False]
