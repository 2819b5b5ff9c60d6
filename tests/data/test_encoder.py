"""Encoding: every type that holds numbers, categories that hash alike everywhere, labels, and what is refused."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from incr_core.data import row_ids
from incr_core.data.encoding import ColumnHash, Encoder, find_classes
from incr_core.errors import ArgumentError, StreamError
from tests.support.kinds import sorted_columns


def encode(encoder: Encoder, columns: dict[str, Any], **options: Any) -> Any:
    table = pa.table(columns)
    return encoder.encode(table, row_ids(2, 0, len(table)), "day.parquet", **options)


def plain(label: str | None = None, objective: str = "regression", **options: Any) -> Encoder:
    return Encoder(label, ["x"], [], objective=objective, classes=options.pop("classes", None), **options)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None, 3], pa.int8()), [1, None, 3]),
        (pa.array([True, None, False]), [1, None, 0]),
        (pa.array([decimal.Decimal("1.5"), None]), [1.5, None]),
        (pa.array([dt.date(1970, 1, 3), None]), [2, None]),
        (pa.array([dt.datetime(1970, 1, 2, 12)], pa.timestamp("ns")), [1.5]),
        (pa.array([dt.timedelta(minutes=2)]), [120]),
        (pa.array([dt.time(1, 0, 1)]), [3601]),
        (pa.array([" 1", "-2.5e1", "", None]), [1, -25, None, None]),
        (pa.array(["7", "8"]).dictionary_encode(), [7, 8]),
        (pa.nulls(2), [None, None]),
        (pa.chunked_array([[1.0], [], [2.0, None]]), [1, 2, None]),
    ],
)
def test_whatever_holds_numbers_becomes_floats(column: Any, expected: list[Any]) -> None:
    found = encode(plain(), {"x": column})
    assert found.bad == []
    values = found.batch.inputs[:, 0]
    assert values.dtype == torch.float32
    assert [None if math.isnan(value) else value for value in values.tolist()] == expected


def test_lists_take_as_many_columns_as_they_are_long() -> None:
    encoder = Encoder("y", ["a", "pixels", "b"], [], objective="regression", classes=None, widths={"pixels": 2})
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(range(6), pa.uint8()), 2)
    found = encode(encoder, {"a": [1.0, 2.0, 3.0], "pixels": fixed, "b": [7, 8, 9], "y": [0.0, 0.0, 0.0]})
    assert found.batch.inputs.tolist() == [[1, 0, 1, 7], [2, 2, 3, 8], [3, 4, 5, 9]]
    assert (encoder.width, encoder.empty().inputs.shape) == (4, (0, 4))  # type: ignore[union-attr]
    ragged = encode(encoder, {"a": [1.0] * 4, "pixels": [[1, 2], [3], None, [1, None]], "b": [0] * 4, "y": [0.0] * 4})
    assert [(row.offset, row.reason) for row in ragged.bad] == [
        (1, "expected 2 numbers, got of another length"),
        (3, "expected finite numbers, got NaN, null or infinite"),
    ]
    assert ragged.batch.inputs[1].isnan().tolist() == [False, True, True, False]


@given(st.lists(st.sampled_from(["a", "b", "c", None, "", "é"]), min_size=1, max_size=20), st.integers(1, 3))
def test_categories_hash_by_their_text_in_whatever_pieces_they_come(values: list[Any], pieces: int) -> None:
    encoder = Encoder(None, [], ["k"], objective="binary", classes=None, buckets=1000)
    whole = pa.array(values, pa.string())
    chunks = [whole[i::pieces] for i in range(pieces)]
    expected = {v: encode(encoder, {"k": pa.array([v], pa.string())}).batch.inputs["categorical"][0, 0] for v in values}
    for column in (
        pa.chunked_array(chunks),
        pa.chunked_array([chunk.dictionary_encode() for chunk in chunks]),
        pa.chunked_array(chunks).cast(pa.large_string()),
    ):
        codes = encode(encoder, {"k": column}).batch.inputs["categorical"]
        assert codes.shape == (len(values), 1, 2)
        assert codes.dtype == torch.int64
        for row, value in enumerate(column.to_pylist()):
            assert torch.equal(codes[row, 0], expected[value])


def test_a_category_is_the_same_whatever_type_held_it() -> None:
    hashes = ColumnHash("k")
    for column in ([1, 2], [1.0, 2.0], ["1", "2"]):
        assert hashes(pa.chunked_array([column])).tolist() == hashes(pa.chunked_array([["1", "2"]])).tolist()
    assert len({*hashes(pa.chunked_array([["", "None", None, "null"]])).tolist()}) == 4
    assert hashes(pa.chunked_array([["1"]]))[0] != ColumnHash("other")(pa.chunked_array([["1"]]))[0]


@pytest.mark.slow
def test_hashes_are_the_same_in_every_process() -> None:
    code = (
        "import pyarrow as pa; from incr_core.data.encoding import ColumnHash;"
        "print(ColumnHash('k')(pa.chunked_array([['AA', None]])).tolist())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert found.stdout.strip() == str(ColumnHash("k")(pa.chunked_array([["AA", None]])).tolist())


def test_two_hashes_disagree_about_collisions() -> None:
    encoder = Encoder(None, [], ["k"], objective="binary", classes=None, buckets=64)
    codes = encode(encoder, {"k": [str(i) for i in range(512)]}).batch.inputs["categorical"][:, 0]
    assert codes.min() >= 0
    assert codes.max() < 64
    assert len(codes[:, 0].unique()) == 64
    # Of 512 values in 64 * 64 pairs of buckets about 481 are told apart; one hash alone tells 64.
    assert len({tuple(pair) for pair in codes.tolist()}) > 450


def test_the_memory_of_hashes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ColumnHash, "LIMIT", 3)
    hashes = ColumnHash("k")
    column = pa.chunked_array([[str(i) for i in range(10)]])
    assert hashes(column).tolist() == ColumnHash("k")(column).tolist()
    assert len(hashes._seen) <= 3


@pytest.mark.parametrize(
    ("objective", "classes", "labels", "expected"),
    [
        ("binary", None, [0, 1], [0.0, 1.0]),
        ("binary", None, [True, False], [1.0, 0.0]),
        ("binary", None, [1.0, 0.0], [1.0, 0.0]),
        ("binary", ["no", "yes"], ["yes", "no"], [1.0, 0.0]),
        ("binary", [2, 1], [1, 2], [1.0, 0.0]),
        ("multiclass", ["a", "b", "c"], ["c", "a"], [2, 0]),
        ("multiclass", [3, 5, 7], [7, 3], [2, 0]),
        ("multiclass", [3, 5, 7], ["7", "3"], [2, 0]),
        ("multiclass", None, [4, 0], [4, 0]),
        ("regression", None, [1.5, -2.0], [1.5, -2.0]),
        ("regression", None, [1, 2], [1.0, 2.0]),
        ("module:ours", None, [0.5, 1.5], [0.5, 1.5]),
        ("module:ours", ["a", "b"], ["b", "a"], [1, 0]),
    ],
)
def test_labels_become_targets(objective: str, classes: Any, labels: list[Any], expected: list[Any]) -> None:
    found = encode(plain("y", objective, classes=classes), {"x": [0.0, 0.0], "y": labels})
    assert found.bad == []
    assert found.batch.targets.tolist() == expected
    real = torch.float64 if objective == "regression" else torch.float32
    assert found.batch.targets.dtype == (real if isinstance(expected[0], float) else torch.int64)
    assert plain("y", objective, classes=classes).empty().targets.dtype == found.batch.targets.dtype


@pytest.mark.parametrize(
    ("objective", "classes", "labels", "reason"),
    [
        ("binary", None, [0, 2], "expected 0 or 1, got something else"),
        ("binary", None, [0, None], "expected a label, got missing"),
        ("binary", ["no", "yes"], ["no", "maybe"], "expected one of no, yes, got something else"),
        ("multiclass", [0, 1, 2], [1, 3], "expected one of 0, 1, 2, got something else"),
        ("multiclass", None, [1, -1], "expected a class number from 0, got something else"),
        ("regression", None, [1.0, math.inf], "expected a finite number, got NaN or infinite"),
        ("regression", None, [1.0, math.nan], "expected a finite number, got NaN or infinite"),
        ("regression", None, ["1", "n/a"], "expected float, got text"),
        ("regression", None, [1.0, None], "expected a label, got missing"),
        ("regression", None, ["1", ""], "expected a label, got missing"),
        ("multiclass", ["a", "b"], ["a", ""], "expected a label, got missing"),
        ("binary", ["no", "yes"], pa.array(["no", ""]).dictionary_encode(), "expected a label, got missing"),
        ("multiclass", ["a", "b"], pa.array([b"a", b""]), "expected a label, got missing"),
    ],
)
def test_a_row_whose_label_is_wrong_is_bad(objective: str, classes: Any, labels: Any, reason: str) -> None:
    found = encode(plain("y", objective, classes=classes), {"x": [5.0, 6.0], "y": labels})
    assert [(row.row, row.fragment, row.offset, row.column, row.reason) for row in found.bad] == [
        ((2 << 40) + 1, "day.parquet", 1, "y", reason)
    ]
    assert found.batch.inputs.tolist() == [[5.0]]
    assert found.batch.row_ids.tolist() == [2 << 40]


def test_a_label_not_there_yet_is_no_fault() -> None:
    found = encode(plain("y", "binary"), {"x": [1.0, 2.0], "y": [1, None]}, labelled=np.array([True, False]))
    assert (found.bad, found.batch.targets.tolist()) == ([], [1.0, 0.0])
    assert len(encode(plain("y", "binary"), {"x": [1.0]}, labelled=False).batch) == 1


def test_weights_and_tasks() -> None:
    encoder = plain("y", "binary", weight="w", task="t")
    columns = {"x": [0.0] * 4, "y": [0] * 4, "w": [0.5, -1.0, None, 2.0], "t": [0, 1, 2, None]}
    found = encode(encoder, columns)
    assert [(row.offset, row.reason) for row in found.bad] == [
        (1, "expected a weight of at least 0, got negative or missing"),
        (2, "expected a weight of at least 0, got negative or missing"),
        (3, "expected a task number, got missing"),
    ]
    assert (found.batch.weights.tolist(), found.batch.task.tolist()) == ([0.5], [0])
    with pytest.raises(
        StreamError, match=r"stream.features.t: expected integers for the task, got string in day.parquet"
    ):
        encode(encoder, columns | {"t": ["a"] * 4})


def test_a_row_with_two_faults_is_counted_once() -> None:
    found = encode(plain("y", "binary"), {"x": [math.nan, 0.0], "y": [7, 0]})
    assert [(row.column, row.value) for row in found.bad] == [("x", "nan")]


def test_what_an_encoder_refuses() -> None:
    with pytest.raises(
        ArgumentError, match="features: expected at least one numeric, categorical, text or date column"
    ):
        Encoder("y", [], [], objective="binary", classes=None)
    with pytest.raises(ArgumentError, match="features: expected every column once, got x twice"):
        Encoder("y", ["x"], ["x"], objective="binary", classes=None)
    with pytest.raises(ArgumentError, match="features: expected every column once, got y twice"):
        Encoder("y", ["x", "y"], [], objective="binary", classes=None)
    with pytest.raises(ArgumentError, match=r"features.classes: expected two for a binary objective, got 3"):
        plain("y", "binary", classes=[1, 2, 3])
    with pytest.raises(ArgumentError, match=r"features.buckets: expected at least 2, got 1"):
        plain(buckets=1)


def test_classes_are_found_in_every_fragment() -> None:
    def source(*labels: list[Any]) -> Any:
        return lambda: [{"y": part} for part in labels]

    assert find_classes(source([3, 1], [2, 10]), "y") == [1, 2, 3, 10]
    assert find_classes(source(["b"], ["a", None]), "y") == ["a", "b"]
    assert find_classes(source(["b", ""], ["a", ""]), "y") == ["a", "b"]
    assert find_classes(source([True], [True]), "y", objective="binary") == [0, 1]
    assert find_classes(source(["no"], ["yes"]), "y", objective="binary") == ["no", "yes"]
    with pytest.raises(StreamError, match=r"stream.features.y: expected two distinct labels .*, got 3 \(1, 2, 3\)"):
        find_classes(source([1, 2, 3]), "y", objective="binary")
    with pytest.raises(StreamError, match="expected labels to find the classes in, got none"):
        find_classes(source([None]), "y")
    with pytest.raises(StreamError, match="expected at most 10,000 classes, got more by part 0"):
        find_classes(source(list(range(10_001))), "y")
    assert find_classes(source([0.5, 1.0, 1.5] * 10), "y") == [0.5, 1.0, 1.5]
    with pytest.raises(StreamError, match=r'expected classes, got 30 distinct numbers in 30 rows .*"regression"'):
        find_classes(source([0.1 * number for number in range(30)]), "y")


def test_column_kinds() -> None:
    table = pa.table(
        {
            "number": [1.5],
            "whole": [1],
            "name": ["a"],
            "flag": [True],
            "when": pa.array([0], pa.timestamp("s")),
            "pixels": [[1, 2]],
            "words": [["a"]],
            "coded": pa.array(["a"]).dictionary_encode(),
            "y": [0],
        }
    )
    assert sorted_columns(lambda: [table], {"y", None}) == (["number", "whole", "pixels"], ["name", "flag", "coded"])


def test_a_column_of_nulls_only_is_of_the_kind_it_has_further_on(tmp_path: Path) -> None:
    for day, (late, never) in enumerate([(pa.nulls(2), pa.nulls(2)), (pa.nulls(0, pa.float64()), pa.nulls(0))]):
        table = pa.table({"x": pa.nulls(len(late), pa.int64()), "late": late, "never": never})
        pq.write_table(table, tmp_path / f"{day}.parquet")
    pq.write_table(pa.table({"x": [1], "late": [1.5], "never": pa.nulls(1)}), tmp_path / "2.parquet")
    assert sorted_columns(tmp_path) == (["x", "late"], [])


def test_text_that_is_not_utf8_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("x,town\n1,K\xf6ln\n2,Bonn\n".encode("latin-1"))
    assert sorted_columns(path) == (["x"], ["town"])
    assert sorted_columns(lambda: [pa.table({"k": pa.array([b"\xe9"], pa.large_binary())})]) == ([], ["k"])
    encoder = Encoder(None, [], ["k"], objective="binary", classes=None)
    codes = encode(encoder, {"k": [b"\xe9", b"a", b"\xe9"]}).batch.inputs["categorical"]
    assert torch.equal(codes[0], codes[2])


@pytest.mark.parametrize(("words", "expected"), [(1, (["x"], [])), (2, ([], ["x"]))])
def test_text_in_a_csv_file_that_is_mostly_numbers_is_numeric(tmp_path: Path, words: int, expected: Any) -> None:
    values = ["n/k"] * words + [str(i) for i in range(10 - words)]
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "".join(f"{value},0\n" for value in [*values, ""]))
    assert sorted_columns(path, {"y"}) == expected
    assert sorted_columns(lambda: [{"x": values}]) == ([], ["x"])  # elsewhere a type is no guess


@pytest.mark.parametrize("values", [[[1, 2]], [{"a": 1}], [["a"]]])
def test_labels_and_categories_must_be_single_values(values: list[Any]) -> None:
    kind = re.escape(str(pa.array(values).type))
    message = f"expected text, numbers or true and false, got {kind}; convert it or leave it out"
    with pytest.raises(StreamError, match=f"stream.features.k in day.parquet: {message}"):
        encode(Encoder(None, [], ["k"], objective="binary", classes=None), {"k": values})
    with pytest.raises(StreamError, match=f"stream.features.y in day.parquet: {message}"):
        encode(plain("y", "multiclass", classes=["a", "b"]), {"x": [1.0], "y": values})
    with pytest.raises(StreamError, match=f"stream.features.y in part 0: {message}"):
        find_classes(lambda: [{"y": values}], "y")
