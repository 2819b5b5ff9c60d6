"""Files of a stream that hold a column in different types: the same values, or refused by name."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.data import OFFSET_BITS
from incr_core.data._local_time import in_zone
from incr_core.data.encoding import Encoder
from incr_core.data.rates import Rate
from incr_core.data.sources import open_source
from incr_core.data.timeline import Stream
from incr_core.data.timeline._chunk_encoder import ChunkEncoder
from incr_core.data.times import SECOND, instants
from incr_core.errors import JobError, StreamError
from incr_core.job import Job
from tests.support.streams import categories, ids, numbers_of

NOON = datetime(2020, 1, 1, 12)
SUMMER = datetime(2020, 7, 1, 12)

ALIKE_NUMBERS: dict[str, tuple[list[pa.Array], list[float]]] = {
    "numbers": (
        [
            *(pa.array([1, 2], kind) for kind in (pa.int8(), pa.uint16(), pa.int64(), pa.uint64())),
            *(pa.array([1.0, 2.0], kind) for kind in (pa.float16(), pa.float32(), pa.float64())),
            pa.array([Decimal("1.00"), Decimal(2)], pa.decimal128(5, 2)),
            pa.array([Decimal("1.0"), Decimal(2)], pa.decimal256(60, 1)),
            *(pa.array(["1", "2.0"], kind) for kind in (pa.string(), pa.large_string(), pa.string_view())),
            pa.array(["1", "2"]).dictionary_encode(),
            pa.array([1, 2]).dictionary_encode(),
        ],
        [1.0, 2.0],
    ),
    "days since 1970": (
        [
            *(
                pa.array([datetime(2020, 1, 1), datetime(2020, 1, 3)], pa.timestamp(unit))
                for unit in ("s", "ms", "us", "ns")
            ),
            *(pa.array([date(2020, 1, 1), date(2020, 1, 3)], kind) for kind in (pa.date32(), pa.date64())),
        ],
        [18262.0, 18264.0],
    ),
    "instants": (
        [
            pa.array([NOON.replace(tzinfo=UTC), NOON.replace(tzinfo=UTC)], pa.timestamp("s", "UTC")),
            pa.array([NOON.replace(tzinfo=UTC), NOON.replace(tzinfo=UTC)], pa.timestamp("ns", "Asia/Tokyo")),
        ],
        [18262.5, 18262.5],
    ),
    "seconds": (
        [pa.array([timedelta(seconds=90), timedelta(0)], pa.duration(unit)) for unit in ("s", "ms", "us", "ns")],
        [90.0, 0.0],
    ),
    "seconds of the day": (
        [
            pa.array([time(0, 1, 30), time(0)], kind)
            for kind in (pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"))
        ],
        [90.0, 0.0],
    ),
}


@pytest.mark.parametrize("meaning", ALIKE_NUMBERS)
def test_a_numeric_column_means_the_same_in_all_its_types(meaning: str) -> None:
    arrays, values = ALIKE_NUMBERS[meaning]
    encoder = Encoder("y", ["x"], [], objective="regression", classes=None)
    tables = [pa.table({"x": array, "y": [0.0, 0.0]}) for array in arrays]
    steps = list(Stream(lambda: tables, encoder=encoder).increments())
    assert [numbers_of(step.labelled).flatten().tolist() for step in steps] == [values] * len(arrays)


ALIKE_CATEGORIES: dict[str, list[pa.Array]] = {
    "words": [
        *(pa.array(["a", None, "b"], kind) for kind in (pa.string(), pa.large_string(), pa.string_view())),
        *(
            pa.array([b"a", None, b"b"], kind)
            for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1))
        ),
        *(pa.array(["a", None, "b"], kind).dictionary_encode() for kind in (pa.string(), pa.large_string())),
        pa.DictionaryArray.from_arrays(pa.array([1, None, 0]), pa.array(["b", "a"], pa.string_view())),
        pa.DictionaryArray.from_arrays(pa.array([1, 2, 0]), pa.array(["b", "a", None])),
    ],
    "whole numbers": [
        *(pa.array([1, None, 20], kind) for kind in (pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64())),
        pa.array([Decimal("1.00"), None, Decimal("20.00")], pa.decimal128(5, 2)),
        pa.array(["1", None, "20"]),
        pa.array([1.0, None, 20.0]).dictionary_encode(),
    ],
    "fractions": [
        *(pa.array([0.1, None, 2.5], kind) for kind in (pa.float32(), pa.float64())),
        *(
            pa.array([Decimal("0.1"), None, Decimal("2.5")], kind)
            for kind in (pa.decimal128(9, 4), pa.decimal256(60, 1))
        ),
        pa.array(["0.1", None, "2.5"]),
    ],
    "days": [
        *(pa.array([date(2020, 1, 1), None, date(2021, 1, 1)], kind) for kind in (pa.date32(), pa.date64())),
        *(
            pa.array([datetime(2020, 1, 1), None, datetime(2021, 1, 1)], pa.timestamp(unit))
            for unit in ("s", "us", "ns")
        ),
        pa.array(["2020-01-01", None, "2021-01-01"]),
    ],
    "instants": [
        pa.array([NOON, None, SUMMER], pa.timestamp(unit, zone)) for unit, zone in (("s", "UTC"), ("ns", "Asia/Tokyo"))
    ],
}


@pytest.mark.parametrize("meaning", ALIKE_CATEGORIES)
def test_a_category_is_the_same_in_all_its_types(meaning: str) -> None:
    encoder = Encoder("y", [], ["c"], objective="regression", classes=None)
    tables = [pa.table({"c": array, "y": [0.0, 0.0, 0.0]}) for array in ALIKE_CATEGORIES[meaning]]
    steps = list(Stream(lambda: tables, encoder=encoder).increments())
    first, *others = [categories(step.labelled) for step in steps]
    assert len({str(pair) for pair in first.tolist()}) == 3
    assert len(others) == len(tables) - 1
    assert all(torch.equal(other, first) for other in others)


NAIVE, ZONED = pa.array([NOON], pa.timestamp("us")), pa.array([NOON], pa.timestamp("us", "Europe/Berlin"))
NUMBER, FLAG = pa.array([1]), pa.array([True])


@pytest.mark.parametrize(
    ("role", "first", "second", "expected", "got"),
    [
        ("numeric", NAIVE, ZONED, "times without one", "times with a time zone"),
        ("numeric", ZONED, pa.array([date(2020, 1, 1)]), "times with a time zone", "times without one"),
        ("numeric", NAIVE, NUMBER, "times without one", "numbers"),
        ("numeric", NUMBER, pa.array([timedelta(1)]), "numbers", "durations"),
        ("numeric", pa.array([time(1)]), pa.array([timedelta(1)]), "times of day", "durations"),
        ("categorical", FLAG, NUMBER, "true and false", "numbers"),
        ("categorical", NAIVE, ZONED, "times without one", "times with a time zone"),
        ("key of a rate", FLAG, NUMBER, "true and false", "numbers"),
        ("outcome of a rate", NUMBER, NAIVE, "numbers", "times without one"),
        ("label", NUMBER, pa.array([timedelta(1)]), "numbers", "durations"),
    ],
)
def test_what_would_change_its_meaning_is_refused(
    tmp_path: Path, role: str, first: pa.Array, second: pa.Array, expected: str, got: str
) -> None:
    """Naming both files, and nothing of the second is taken."""
    for number, (name, array) in enumerate([("a", first), ("b", second)]):
        others = {"x": [1.0], "y": [1.0], "at": pa.array([number])}
        pq.write_table(pa.table({**others, "c": array}), tmp_path / f"{name}.parquet")
    numeric, categorical = (["c"] if role == "numeric" else ["x"]), (["c"] if role == "categorical" else [])
    label = "c" if role == "label" else "y"
    encoder = Encoder(label, numeric, categorical, objective="regression", classes=None)
    rates = {"key of a rate": [Rate(["c"], "1h")], "outcome of a rate": [Rate([], "1h", outcome="c")]}.get(role, [])
    steps = Stream(tmp_path, encoder=encoder, predict_at="at", every=1, rates=rates).increments()
    with pytest.raises(StreamError) as caught:
        list(steps)
    words = str(caught.value)
    assert words.startswith(
        f'b.parquet: expected {expected} in column "c", as in a.parquet, got {got}; write them alike'
    )


def test_flags_and_numbers_are_the_same_to_a_numeric_column() -> None:
    tables = [pa.table({"x": array, "y": [0.0]}) for array in (FLAG, NUMBER, pa.nulls(1))]
    encoder = Encoder("y", ["x"], [], objective="regression", classes=None)
    values = [numbers_of(step.labelled).flatten() for step in Stream(lambda: tables, encoder=encoder).increments()]
    assert torch.cat(values).nan_to_num(9).tolist() == [1, 1, 9]


# -- time zones


def timed(folder: Path, **files: Any) -> Path:
    """Files of one row each, whose times are these arrays."""
    for name, at in files.items():
        pq.write_table(pa.table({"at": at, "x": [1.0], "y": [0.0]}), folder / f"{name}.parquet")
    return folder


def by_time(folder: Path, **changes: Any) -> Stream:
    encoder = Encoder("y", ["x"], [], objective="regression", classes=None)
    return Stream(folder, encoder=encoder, **({"predict_at": "at", "every": "1h"} | changes))


LATER = pa.array([SUMMER], pa.timestamp("us"))
MIXED = (
    '{second}.parquet: expected times {before} in column "at", as in {first}.parquet, got times {after}; write them '
    'alike, or begin a run with stream.time_zone = "UTC", or whatever zone those without one mean'
)


@pytest.mark.parametrize("text", [False, True])
def test_files_with_and_without_a_time_zone_are_not_mixed(tmp_path: Path, text: bool) -> None:
    zoned: Any = ["2020-01-01T12:00:00Z"] if text else ZONED
    naive: Any = ["2020-07-01T12:00:00"] if text else LATER
    with pytest.raises(StreamError) as caught:
        list(by_time(timed(tmp_path, a=zoned, b=naive)).increments())
    assert str(caught.value) == MIXED.format(first="a", before="with a time zone", second="b", after="without one")
    with pytest.raises(StreamError, match=r"^d.parquet: expected times without one in column .at., as in c.parquet"):
        list(by_time(timed(tmp_path / "..", c=["2020-01-01"], d=["2020-07-01T00:00Z"]) / "[cd].parquet").increments())


def test_a_run_that_goes_on_remembers_what_its_times_were(tmp_path: Path) -> None:
    """Also when the files that said so are gone."""
    stream = by_time(timed(tmp_path, a=ZONED))
    cursor = list(stream.increments())[-1].cursor
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(
        StreamError, match=r"^b.parquet: expected times with a time zone .*, as in a.parquet, got times wi"
    ):
        list(by_time(timed(tmp_path, b=LATER)).increments(cursor))


def test_columns_of_times_are_one_clock(tmp_path: Path) -> None:
    pq.write_table(pa.table({"at": NAIVE, "known": ZONED, "x": [1.0], "y": [0.0]}), tmp_path / "a.parquet")
    with pytest.raises(StreamError, match=r'in column "known", as in column "at" of a.parquet, got times with a time'):
        list(by_time(tmp_path, label_at="known").increments())


def test_different_zones_are_instants_and_so_are_epoch_seconds(tmp_path: Path) -> None:
    noon = int(NOON.replace(tzinfo=UTC).timestamp())
    tokyo = pa.array([noon], pa.timestamp("s", "Asia/Tokyo"))
    utc = ["2020-01-01T13:30:00+01:00"]
    steps = list(by_time(timed(tmp_path, a=tokyo, b=utc, c=pa.array([noon + 3600]))).increments())
    assert [(step.tick.name, ids([step.labelled])) for step in steps] == [
        ("2020-01-01 12:00", [0, 1 << OFFSET_BITS]),
        ("2020-01-01 13:00", [2 << OFFSET_BITS]),
    ]


@pytest.mark.parametrize(
    "naive", [NAIVE, ["2020-01-01 12:00"], pa.array([NOON], pa.timestamp("ns")), ["2020-01-01T12:00:00.5"]]
)
def test_a_time_zone_says_what_times_without_one_mean(tmp_path: Path, naive: Any) -> None:
    """Noon in Berlin is 11:00 UTC; what says its zone stays, and the warm start is in that zone too."""
    zoned = pa.array([NOON.replace(hour=13)], pa.timestamp("s", "UTC"))
    stream = by_time(timed(tmp_path, a=naive, b=zoned), time_zone="Europe/Berlin", warm_start="2020-01-01T13:30")
    assert [(step.tick.name, step.tick.warm) for step in stream.increments()] == [
        ("warm start", True),
        ("2020-01-01 13:00", False),
    ]
    stream = by_time(tmp_path, time_zone="Europe/Berlin")
    assert [step.tick.name for step in stream.increments()] == ["2020-01-01 11:00", "2020-01-01 13:00"]


def test_an_hour_that_comes_twice_never_lets_a_label_be_known_early() -> None:
    """02:30 on the day that clocks are set back: predicted at the first of the two, known at the second."""
    for column in (["2013-10-27 02:30"], pa.array([datetime(2013, 10, 27, 2, 30)])):
        early, late = (in_zone(pa.chunked_array([column]), "Europe/Berlin", late=late) for late in (False, True))
        first, second = (int(instants(found, "at").values[0]) for found in (early, late))
        assert (first, second) == (1382833800 * SECOND, 1382837400 * SECOND)


def test_what_is_no_time_stays_what_it_was(tmp_path: Path) -> None:
    column = in_zone(pa.chunked_array([["soon", None, "2013-07-01"]]), "Europe/Berlin", late=False)
    read = instants(column, "at")
    assert column.to_pylist()[:2] == ["soon", None]
    assert (read.known.tolist(), read.wrong.tolist()) == ([False, False, True], [True, False, False])


def test_a_time_zone_that_is_none_is_refused() -> None:
    document = {"stream": {"path": "x", "time_zone": "Europe/Berlim"}, "features": {"label": "y"}}
    with pytest.raises(JobError) as caught:
        Job.from_document({**document, "learner": {"objective": "binary"}})
    assert str(caught.value) == (
        'job: stream.time_zone: expected a time zone such as "Europe/Berlin" or "UTC", got \'Europe/Berlim\''
    )


def test_a_zone_is_of_the_files_that_a_stream_takes(tmp_path: Path) -> None:
    """A file that a bad row has refused decides nothing for those after it."""
    folder = timed(tmp_path, a=ZONED)
    encoder = Encoder("y", ["x"], [], objective="regression", classes=None)
    chunks = ChunkEncoder(encoder, "at", None, owner=None, strict=True, tolerant=False)
    [fragment] = open_source(folder).fragments("at")
    broken = pa.table({"at": NAIVE, "x": [float("nan")], "y": [0.0]})
    with pytest.raises(StreamError):
        chunks.encode(fragment, broken, 0)
    chunks.encode(fragment, fragment.load(chunks.columns), 0)
    assert chunks.alike.seen["times"] == ["times with a time zone", "at", "a.parquet"]
