"""Rows encoded as they come have the bits of the same rows encoded as a table, or are left to the table."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

pytest.importorskip("httptools")

from incr_core.batch import Inputs
from incr_core.data.encoding import Encoder
from incr_core.data.rates import History, Questions, Rate
from incr_core.data.timeline import PlainAsked, encode_table
from incr_core.data.times import SECOND
from incr_core.errors import StreamError
from incr_core.serving import Column, table_of

COLUMNS = {
    "height": Column("number"),
    "count": Column("number"),
    "image": Column("list", 3),
    "colour": Column("category"),
    "zip": Column("category"),
    "at": Column("time"),
    "task": Column("task"),
}
RATES = [
    Rate(["colour"], "6h"),
    Rate(["colour", "count"], "1h", prior=0.25),
    Rate([], None, weight=2.0),
    Rate(["zip"], "2h", outcome="delay"),
]
USUAL: dict[str, list[Any]] = {
    "height": [170.5, 170, None, True, -0.0, 0, 1e-45, 3.4e38, 2**53, 0.1, 1e-320, 16777217],
    "count": [1, 2.0, 3, None, False, 2.5],
    "image": [[1, 2.5, True], [0.1, 1e-42, -3], None, [2**60 + 1, 1e308 * 0, 7]],
    "colour": ["red", "", "rød", None, True, 1, 1.0, "1", 1e300, 10**30, 0.1, "x" * 300],
    "zip": ["2100", 2100, 2100.0, None],
    "at": ["2020-01-01 03:00", "2020-01-01T03:00:01.5", "2020-01-01", "2020-03-29T12:00:00.123456"],
    "task": [0, 1, 2],
}
ODD: dict[str, list[Any]] = {
    "height": ["170.5", "tall", 1e39, 10**400, 2**53 + 1, "", [1.0], 1e999, {}],
    "count": ["7", 2**62 + 1, 10**400],
    "image": [[1, 2], [1, 2, 3, 4], [1, 2, "3"], [1, 2, None], [1, 2, 1e39], [1, 2, 1e999], 7, [[1, 2, 3]], []],
    "colour": [chr(0xD800), [1], {}],
    "zip": [[1]],
    "at": [None, "soon", True, "2020-02-31", 1e300, "2020-01-01T03:00Z", 1577847600, 1577847600.25, "0001-01-01"],
    "task": [None, 3, -1, 1.0, "1", True],
}
ZONES = [None, "Europe/Berlin"]


def encoder(**options: Any) -> Encoder:
    asked = {"objective": "binary", "classes": None, "task": "task", "tasks": 3, "buckets": 64, "widths": {"image": 3}}
    return Encoder("late", ["height", "image", "count"], ["colour", "zip"], **asked | options)


def history() -> pa.Table:
    """Outcomes of two days."""
    draw = np.random.default_rng(0)
    count = 300
    table = pa.table(
        {
            "colour": draw.choice(["red", "1", "true"], count),
            "count": draw.integers(0, 4, count),
            "zip": draw.choice(["2100", "x"], count),
            "delay": draw.normal(size=count),
        }
    )
    known = 1_577_800_000 * SECOND + draw.integers(0, 86_400 * SECOND, count)
    asked = Questions.answered(RATES, table, draw.integers(0, 2, count).astype(np.float64), known, known)
    return History(RATES).plus(asked).table()


def by_table(made: Encoder, rows: list[dict[str, Any]], rates: Any, past: Any, zone: str | None) -> Inputs | None:
    """The inputs by way of a table; None where that leaves out rows, or takes none."""
    try:
        table = table_of(rows, COLUMNS)
        found = encode_table(table, "here", made, rates, past, predict_at="at", time_zone=zone)
    except StreamError:
        return None
    return None if found.bad else found.batch.inputs


def bits(inputs: Inputs) -> dict[str, Any]:
    """Inputs as bytes, types and shapes; a NaN is a NaN whatever its bits."""
    named = inputs if isinstance(inputs, dict) else {"numeric": inputs}
    return {
        name: (value.dtype, value.shape, torch.where(value.isnan(), 0, value).numpy().tobytes(), value.isnan().tolist())
        for name, value in named.items()
    }


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("rates", [(), RATES], ids=["plain", "rates"])
def test_all_usual_values_have_the_bits_of_a_table_and_take_no_detour(rates: Any, zone: str | None) -> None:
    made, past, draw = encoder(), history(), random.Random(1)
    plain = PlainAsked(made, rates, past, predict_at="at", time_zone=zone)
    for trial in range(150):
        rows = [{name: draw.choice(values) for name, values in USUAL.items()} for _ in range(1 + trial % 3)]
        found, expected = plain.inputs(rows), by_table(made, rows, rates, past, zone)
        assert found is not None, rows
        assert expected is not None, rows
        assert bits(found) == bits(expected), rows


def test_ids_have_the_bits_of_a_table() -> None:
    made, draw = (
        Encoder("late", ["height"], ["colour"], objective="binary", classes=None, id_columns=["zip"]),
        random.Random(3),
    )
    for _ in range(50):
        rows = [{name: draw.choice(values) for name, values in USUAL.items()} for _ in range(3)]
        found, expected = PlainAsked(made).inputs(rows), by_table(made, rows, (), None, None)
        assert isinstance(found, dict)
        assert expected is not None
        assert bits(found) == bits(expected), rows
        assert [key == 0 for key in found["ids"][:, 0].tolist()] == [row["zip"] is None for row in rows]
    strange = [{**{name: values[0] for name, values in USUAL.items()}, "zip": [1]}]
    assert PlainAsked(made).inputs(strange) is None


@pytest.mark.parametrize("zone", ZONES)
def test_an_odd_value_is_left_to_the_table_or_has_its_bits(zone: str | None) -> None:
    made, past, draw = encoder(), history(), random.Random(2)
    plain = PlainAsked(made, RATES, past, predict_at="at", time_zone=zone)
    left = 0
    for name, values in ODD.items():
        for value in values:
            for others in (0, 1):
                rows = [{column: draw.choice(kinds) for column, kinds in USUAL.items()} for _ in range(1 + others)]
                rows[0][name] = value
                found, expected = plain.inputs(rows), by_table(made, rows, RATES, past, zone)
                left += found is None
                if found is not None:
                    assert expected is not None, rows
                    assert bits(found) == bits(expected), rows
    assert left > 50


def test_nobody_asks_for_the_weight_of_a_row_to_predict() -> None:
    made, row = encoder(weight="w"), {name: values[0] for name, values in USUAL.items()}
    found, expected = PlainAsked(made).inputs([row]), by_table(made, [row], (), None, None)
    assert found is not None
    assert expected is not None
    assert bits(found) == bits(expected)


def test_clocks_that_are_set_forward_or_back_are_read_as_a_table_is() -> None:
    made, past = encoder(), history()
    plain = PlainAsked(made, RATES, past, predict_at="at", time_zone="Europe/Berlin")
    row = {name: values[0] for name, values in USUAL.items()}
    for told in (
        "2020-03-29 01:59:59",
        "2020-03-29 03:00",
        "2019-10-27 02:30",
        "2019-10-27 03:00",
        "2020-07-01T00:00Z",
    ):
        rows = [row | {"at": told}]
        found, expected = plain.inputs(rows), by_table(made, rows, RATES, past, "Europe/Berlin")
        assert found is not None
        assert expected is not None
        assert bits(found) == bits(expected), told
    assert plain.inputs([row | {"at": "2020-03-29 02:30"}]) is None


def test_a_column_that_is_not_there_is_left_to_the_table_unless_nobody_asks_for_it() -> None:
    row = {name: values[0] for name, values in USUAL.items()}
    for name in row:
        rest = {column: value for column, value in row.items() if column != name}
        assert PlainAsked(encoder(), RATES, None, predict_at="at").inputs([rest]) is None
    guesses = PlainAsked(encoder(guesses=True), (), None)
    without = guesses.inputs([{name: value for name, value in row.items() if name != "task"}])
    assert isinstance(without, dict)
    assert sorted(without) == ["categorical", "numeric"]
    assert guesses.inputs([row, {**row, "task": None}]) is None
