"""The encoder that goes along with an exported model makes what incr makes, and knows neither incr nor torch."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from incr_core.data.encoding import Encoder as Ours
from incr_core.export import encoder as module
from incr_core.export.encoder import Encoder, UnusableValue

BUCKETS = 64


def exported(numeric: dict[str, int | None], categorical: list[str]) -> Encoder:
    """The encoder of a model with these columns; a number is the length of a column's lists."""
    columns: list[dict[str, Any]] = []
    start = 0
    for name, width in numeric.items():
        columns.append(
            {"name": name, "kind": "numbers" if width else "number", "places": [start, start + (width or 1)]}
        )
        start += width or 1
    columns += [{"name": name, "kind": "category", "place": place} for place, name in enumerate(categorical)]
    inputs = [
        {"name": "numeric", "shape": ["rows", start]},
        {"name": "categorical", "shape": ["rows", len(categorical), 2]},
    ]
    return Encoder({"inputs": [one for one in inputs if one["shape"][1]], "columns": columns, "buckets": BUCKETS})


def ours(table: pa.Table, numeric: dict[str, int | None], categorical: list[str]) -> dict[str, torch.Tensor]:
    widths = {name: width for name, width in numeric.items() if width}
    encoder = Ours("y", list(numeric), categorical, objective="binary", classes=None, buckets=BUCKETS, widths=widths)
    encoded = encoder.encode(
        table.append_column("y", pa.array([0.0] * len(table))), torch.arange(len(table)), "a.parquet"
    )
    assert not encoded.bad
    inputs = encoded.batch.inputs
    return inputs if isinstance(inputs, dict) else {"numeric": inputs}


def assert_same(table: pa.Table, numeric: dict[str, int | None], categorical: list[str]) -> None:
    wanted = ours(table, numeric, categorical)
    encoder = exported(numeric, categorical)
    for rows in (table.to_pylist(), table.to_pydict()):
        made = encoder.inputs(rows)
        for name in made:
            np.testing.assert_array_equal(made[name], wanted[name].numpy())


COLUMNS = {
    "whole": [3, None, -(2**40)],
    "float": [0.1, None, 1e300 * 0 + 3.4e38],
    "float32": pa.array([0.1, None, 16777217.0], pa.float32()),
    "bool": [True, None, False],
    "date": [date(1969, 12, 31), None, date(2024, 2, 29)],
    "naive": [datetime(2024, 2, 29, 13, 30, 0, 5), None, datetime(1960, 1, 1)],
    "zoned": [datetime(2024, 2, 29, 1, tzinfo=timezone(timedelta(hours=5))), None, datetime(1970, 1, 1, tzinfo=UTC)],
    "took": [timedelta(minutes=3, microseconds=7), None, timedelta(days=-1)],
    "clock": [time(13, 5, 59, 17), None, time()],
    "price": [Decimal("1.50"), None, Decimal("7.00")],
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("as_category", [False, True])
def test_every_kind_of_value_becomes_what_incr_makes_of_it(name: str, as_category: bool) -> None:
    table = pa.table({name: COLUMNS[name]})
    if not as_category:
        assert_same(table, {name: None}, [])
    elif name == "float32":  # of which Python has no type
        values = [None if value is None else np.float32(value) for value in table[name].to_pylist()]
        made = exported({}, [name]).inputs({name: values})["categorical"]
        np.testing.assert_array_equal(made, ours(table, {}, [name])["categorical"].numpy())
    elif name not in ("took", "clock"):
        assert_same(table, {}, [name])


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "text": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
                "number": st.none() | st.floats(-(2.0**99), 2.0**99, width=32),
                "digits": st.none() | st.sampled_from(["", " 1.5", "-2e3 ", ".5", "7."]),
                "pixels": st.none() | st.lists(st.integers(0, 255), min_size=2, max_size=2),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_rows_drawn_at_random_become_what_incr_makes_of_them(rows: list[dict[str, Any]]) -> None:
    types = {"text": pa.string(), "number": pa.float64(), "digits": pa.string(), "pixels": pa.list_(pa.int64())}
    table = pa.Table.from_pylist(rows, pa.schema(list(types.items())))
    assert_same(table, {"number": None, "digits": None, "pixels": 2}, ["text"])


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("far", "n/a", "row 1: far: expected a number, got 'n/a'"),
        ("far", float("nan"), "row 1: far: expected a finite float32, got nan; give None where it is missing"),
        ("far", 1e39, "row 1: far: expected a finite float32, got 1e+39"),
        ("far", 10**400, "row 1: far: expected a finite float32, got 1000"),
        ("pixels", [1.0], "row 1: pixels: expected a list of 2 numbers, got [1.0]"),
        ("pixels", [1.0, None], "row 1: pixels: expected 2 numbers, got a list in which one is missing"),
        ("carrier", ["AA"], "row 1: carrier: expected text, a number, true or false, got ['AA']"),
        ("word", 1.5, "row 1: word: expected a whole number from 0 to 9, got 1.5"),
        ("word", 10, "row 1: word: expected a whole number from 0 to 9, got 10"),
        ("rate", None, "row 1: rate: expected a number, got none; work it out"),
        ("count", -1, "row 1: count: expected a count of rows, got -1"),
        ("task", 3, "row 1: task: expected a task from 0 to 2, got 3"),
        ("task", True, "row 1: task: expected a task from 0 to 2, got True"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_row_and_column(column: str, value: Any, told: str) -> None:
    columns = [
        {"name": "far", "kind": "number", "places": [0, 1]},
        {"name": "pixels", "kind": "numbers", "places": [1, 3]},
        {"name": "word", "kind": "number", "places": [3, 4], "ids": [0, 9]},
        {"name": "rate", "kind": "rate", "places": [4, 5], "means": "work it out"},
        {"name": "count", "kind": "count", "places": [5, 6], "means": "work it out"},
        {"name": "carrier", "kind": "category", "place": 0},
        {"name": "task", "kind": "task", "below": 3},
    ]
    shapes = {"numeric": ["rows", 6], "categorical": ["rows", 1, 2], "task": ["rows"]}
    inputs = [{"name": name, "shape": shape} for name, shape in shapes.items()]
    encoder = Encoder({"inputs": inputs, "columns": columns, "buckets": 8})
    good = {"far": 1, "pixels": [1, 2], "word": 9, "rate": 0.5, "count": 3, "carrier": "AA", "task": 2}
    made = encoder.inputs([good])
    assert made["numeric"][0, 5] == np.float32(np.log(4))
    assert list(made) == list(shapes)
    with pytest.raises(UnusableValue) as error:
        encoder.inputs([good, {**good, column: value}])
    assert str(error.value).startswith(told)


def test_a_column_that_is_not_there_is_refused_by_name() -> None:
    encoder = exported({"far": None}, ["by"])
    with pytest.raises(UnusableValue, match="row 0: by: expected a value, got none; give None where it is unknown"):
        encoder.inputs([{"far": 1}])
    with pytest.raises(UnusableValue, match="by: expected this column, got far"):
        encoder.inputs({"far": [1]})
    with pytest.raises(UnusableValue, match="columns of one length"):
        encoder.inputs({"far": [1], "by": ["a", "b"]})


def test_the_file_needs_numpy_and_nothing_else(tmp_path: Path) -> None:
    """Python's -I leaves out the folder that it is started in, and what PYTHONPATH names."""
    (tmp_path / "encoder.py").write_text(Path(str(module.__file__)).read_text())
    specification = exported({"far": None}, []).specification
    (tmp_path / "encoder.json").write_text(json.dumps(specification))
    script = f"""
import sys
before = set(sys.modules)
sys.path.insert(0, {str(tmp_path)!r})
from encoder import Encoder
print(Encoder.read().inputs([{{"far": 2}}])["numeric"].tolist())
known = set(sys.stdlib_module_names) | {{"numpy", "encoder"}}
print(sorted({{name.partition(".")[0] for name in sys.modules.keys() - before}} - known))
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (["[[2.0]]", "[]"], "")
