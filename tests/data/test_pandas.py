"""Tables that pandas wrote: its index is no feature, its categories are categories, its missing values are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.data.encoding import Encoder
from incr_core.data.sources import read_table
from incr_core.data.timeline import Stream
from incr_core.job import Job
from incr_core.runs import run
from tests.support.kinds import sorted_columns
from tests.support.streams import categories, numbers_of

X = [0.5, 1.5, 2.5, 3.5]


def kinds_of(frame: pd.DataFrame, folder: Path, **how: Any) -> list[tuple[list[str], list[str]]]:
    """The columns found in a frame as a Parquet file, a Feather file, and a table in Python."""
    frame.to_parquet(folder / "a.parquet", **how)
    frame.to_feather(folder / "a.feather")
    table = pa.Table.from_pandas(frame, preserve_index=how.get("index"))
    return [sorted_columns(found) for found in (folder / "a.parquet", folder / "a.feather", lambda: [table])]


@pytest.mark.parametrize(
    ("index", "kept"),
    [
        (pd.RangeIndex(4), None),
        (pd.RangeIndex(4), True),
        (pd.RangeIndex(0, 8, 2, name="number"), True),
        (pd.Index([7, 3, 5, 1]), None),
        (pd.Index([7, 3, 5, 1], name="customer"), None),
        (pd.Index(["d", "c", "b", "a"], name="customer"), None),
        (pd.MultiIndex.from_product([[1, 2], ["a", "b"]], names=["shop", None]), None),
        (pd.date_range("2020-01-01", periods=4, tz="Europe/Berlin", name="at"), None),
        (pd.CategoricalIndex([1, 2, 1, 2], name="shop"), None),
    ],
    ids=["range", "range kept", "range named", "unnamed", "named", "text", "several", "times", "categories"],
)
def test_an_index_is_no_feature(tmp_path: Path, index: pd.Index, kept: bool | None) -> None:
    assert kinds_of(pd.DataFrame({"x": X}, index=index), tmp_path, index=kept) == [(["x"], [])] * 3


def test_an_index_that_lost_its_metadata_is_none_either(tmp_path: Path) -> None:
    table = pa.Table.from_pandas(pd.DataFrame({"x": X}), preserve_index=True).replace_schema_metadata(None)
    assert table.column_names == ["x", "__index_level_0__"]
    pq.write_table(table, tmp_path / "a.parquet")
    assert sorted_columns(tmp_path / "a.parquet") == (["x"], [])


@pytest.mark.parametrize("spoiled", [b"{", b"[]", b'{"index_columns": 3, "columns": [4]}', b"\xff"])
def test_metadata_that_is_spoiled_says_nothing(tmp_path: Path, spoiled: bytes) -> None:
    pq.write_table(pa.table({"x": X}).replace_schema_metadata({"pandas": spoiled}), tmp_path / "a.parquet")
    assert sorted_columns(tmp_path / "a.parquet") == (["x"], [])


def test_the_index_of_a_csv_file_is_no_feature(tmp_path: Path) -> None:
    """Written, and read and written again."""
    pd.DataFrame({"x": X}).to_csv(tmp_path / "a.csv")
    pd.read_csv(tmp_path / "a.csv").to_csv(tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text().startswith(",Unnamed: 0,x\n")
    assert sorted_columns(tmp_path / "a.csv") == sorted_columns(tmp_path / "b.csv") == (["x"], [])


def test_an_index_that_a_job_names_is_used(tmp_path: Path) -> None:
    """As the clock of the stream, and as a feature."""
    at = pd.date_range("2020-01-01", periods=4, freq="h", name="at")
    pd.DataFrame({"y": X, "k": [1, 2, 1, 2]}, index=at).set_index("k", append=True).to_parquet(tmp_path / "a.parquet")
    encoder = Encoder("y", ["k"], [], objective="regression", classes=None)
    steps = list(Stream(tmp_path, encoder=encoder, predict_at="at", every="1h").increments())
    assert [(step.tick.name, numbers_of(step.labelled).flatten().tolist()) for step in steps] == [
        (f"2020-01-01 0{hour}:00", [number]) for hour, number in enumerate([1.0, 2.0, 1.0, 2.0])
    ]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    "values", [[3, 1, 3, 1], [1.5, 2.5, 1.5, 1.5], [True, False, True, True], ["b", "a", "b", "b"]]
)
def test_a_categorical_is_categorical_whatever_its_values(tmp_path: Path, values: list[Any], ordered: bool) -> None:
    frame = pd.DataFrame({"x": X, "c": pd.Categorical(values, ordered=ordered)})
    assert kinds_of(frame, tmp_path) == [(["x"], ["c"])] * 3
    # The codes of a category are those of the plain value: a later file may hold it without the dictionary.
    encoder = Encoder("x", [], ["c"], objective="regression", classes=None)
    pairs = [
        categories(encoder.encode(read_table(path, ["c", "x"], None, "a"), torch.arange(4), "a").batch)
        for path in (tmp_path / "a.parquet", tmp_path / "a.feather")
    ]
    plain = categories(encoder.encode(pa.table({"c": values, "x": X}), torch.arange(4), "b").batch)
    assert all(torch.equal(pair, plain) for pair in pairs)
    assert len({str(pair) for pair in plain.tolist()}) == 2


def test_a_dictionary_of_numbers_without_pandas_is_categorical(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": X, "c": pa.array([7, 8, 7, 8]).dictionary_encode()}), tmp_path / "a.parquet")
    assert pq.read_schema(tmp_path / "a.parquet").field("c").type == pa.int64()  # Parquet keeps the values
    assert sorted_columns(tmp_path / "a.parquet") == (["x"], ["c"])


def test_a_categorical_is_known_by_what_pandas_says_where_arrow_says_nothing(tmp_path: Path) -> None:
    """As in a file that another library wrote for pandas."""
    table = pa.Table.from_pandas(pd.DataFrame({"x": X, "c": pd.Categorical([3, 1, 3, 1])}))
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"pandas": table.schema.metadata[b"pandas"]})
    assert list(pq.read_metadata(tmp_path / "a.parquet").metadata) == [b"pandas"]
    assert sorted_columns(tmp_path / "a.parquet") == (["x"], ["c"])


def test_a_categorical_of_numbers_that_a_job_names_numeric_is_numeric(tmp_path: Path) -> None:
    pd.DataFrame({"c": pd.Categorical([3, 1, 3, 1]), "y": X}).to_parquet(tmp_path / "a.parquet")
    encoder = Encoder("y", ["c"], [], objective="regression", classes=None)
    [step] = Stream(tmp_path, encoder=encoder).increments()
    assert numbers_of(step.labelled).flatten().tolist() == [3, 1, 3, 1]


def test_nullable_types_keep_their_values_and_what_is_missing(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "i": pd.array([1, None], dtype="Int16"),
            "u": pd.array([2**63 + 2**40, None], dtype="UInt64"),
            "f": pd.array([1.5, None], dtype="Float32"),
            "b": pd.array([True, None], dtype="boolean"),
            "s": pd.array(["a", None], dtype="string"),
            "a": pd.array(["a", None], dtype="string[pyarrow]"),
            "td": pd.to_timedelta([90, None], unit="s"),
            "p": pd.period_range("2020-01", periods=2, freq="M"),
            "iv": pd.IntervalIndex.from_breaks([0, 1, 2]),
            "at": pd.to_datetime(["2020-01-02", None]),
            "tz": pd.to_datetime(["2020-01-02T12:00+09:00", None]).tz_convert("Asia/Tokyo"),
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    assert sorted_columns(tmp_path / "a.parquet") == (["i", "u", "f"], ["b", "s", "a"])
    table = read_table(tmp_path / "a.parquet", None, None, "a.parquet")
    encoder = Encoder(None, ["i", "u", "f", "td", "at", "tz"], ["b", "s", "a"], objective="regression", classes=None)
    batch = encoder.encode(table, torch.arange(2), "a.parquet").batch
    found, hashed = numbers_of(batch), categories(batch)
    day = (pd.Timestamp("2020-01-02") - pd.Timestamp(0)).days
    assert found[0].tolist() == [1, float(np.float32(2**63 + 2**40)), 1.5, 90, day, day + 3 / 24]
    assert found[1].isnan().all()
    assert all(not torch.equal(hashed[0, column], hashed[1, column]) for column in range(3))


def test_extension_types_are_read_alike_whether_pandas_is_there_or_not(tmp_path: Path) -> None:
    """pandas registers its types with Arrow where it is imported, as it is here; elsewhere a period is a number."""
    period = pd.period_range("2020-01", periods=2, freq="M")
    table = pa.Table.from_pandas(pd.DataFrame({"x": X[:2], "p": period}))
    assert isinstance(table.schema.field("p").type, pa.BaseExtensionType)
    pq.write_table(table, tmp_path / "a.parquet")
    storage = table["p"].combine_chunks().storage
    marked = pa.field("p", pa.int64(), metadata={"ARROW:extension:name": "pandas.period"})
    unknown = table.set_column(1, marked, storage)
    for found in (tmp_path / "a.parquet", lambda: [table], lambda: [unknown]):
        assert sorted_columns(found) == (["x"], [])
    encoder = Encoder("x", ["p"], [], objective="regression", classes=None)
    [step] = Stream(tmp_path, encoder=encoder).increments()
    assert numbers_of(step.labelled).flatten().tolist() == storage.to_pylist()


def test_names_of_several_levels_are_columns_like_others(tmp_path: Path) -> None:
    columns = pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")], names=["outer", "inner"])
    frame = pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], columns=columns, index=pd.Index([5, 9]))
    frame.to_parquet(tmp_path / "a.parquet")
    document = {
        "stream": {"path": str(tmp_path / "a.parquet")},
        "features": {"label": "('a', 'y')"},
        "learner": {"objective": "regression"},
    }
    job = Job.from_document(document).resolved()
    assert job.features.numeric == ["('a', 'x')"]
    assert run(job, tmp_path / "out").summary.rows_learned == 2


def test_column_numbers_are_names(tmp_path: Path) -> None:
    pd.DataFrame([[1.0, 2], [3, 4]], columns=pd.Index([0, 1], name="feature")).to_parquet(tmp_path / "a.parquet")
    assert sorted_columns(tmp_path / "a.parquet", {"1"}) == (["0"], [])
