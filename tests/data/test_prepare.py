"""A function of raw tables: where it is applied, and what it must not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.batch import cat
from incr_core.data import Prepare, raw_types
from incr_core.data.encoding import Encoder
from incr_core.data.sources import open_source
from incr_core.data.timeline import Stream
from incr_core.errors import ArgumentError, StreamError
from tests.support.prepared import centred, fewer, people, with_bmi


def prepare(**types: str) -> Prepare:
    return Prepare(with_bmi, "people:with_bmi", types)


@pytest.fixture(params=["parquet", "csv", "arrow", "jsonl"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"people.{request.param}"
    if request.param == "parquet":
        pq.write_table(people(), path, row_group_size=70)
    elif request.param == "csv":
        csv.write_csv(people(), path)
    elif request.param == "arrow":
        with pa.ipc.new_file(path, people().schema) as file:
            file.write_table(people())
    else:
        path.write_text(people().to_pandas().to_json(orient="records", lines=True, date_unit="us", date_format="iso"))
    return path


def test_every_way_to_read_a_file_gives_the_prepared_columns(file: Path) -> None:
    whole = with_bmi(people())
    source = open_source(file, prepare=prepare(kg="double"))
    fragment = next(iter(source.fragments()))
    assert fragment.load(["city", "bmi"]).column_names == ["city", "bmi"]
    torch.testing.assert_close(fragment.load(["bmi"])["bmi"].to_pylist(), whole["bmi"].to_pylist())
    torch.testing.assert_close(
        fragment.take(["bmi"], np.array([299, 71]))["bmi"].to_pylist(), whole["bmi"].take([299, 71]).to_pylist()
    )
    assert source.head(["city"])["city"].to_pylist()[:3] == ["0", "1", "2"]
    if fragment.read_part is not None and fragment.part_rows is not None:
        parts = [
            len(table) for place in range(len(fragment.part_rows())) for table in fragment.read_part(["bmi"], place)
        ]
        assert sum(parts) == 300


def stream(source: Any, **options: Any) -> Stream:
    encoder = Encoder("fat", ["bmi"], ["city"], objective="binary", classes=[0, 1])
    return Stream(source, encoder=encoder, every=100, predict_at="at", prepare=prepare(), **options)


def test_a_stream_of_tables_is_the_stream_of_their_file(tmp_path: Path) -> None:
    pq.write_table(people(), tmp_path / "people.parquet")
    of_file = list(stream(tmp_path).increments())
    of_tables = list(stream(lambda: [people().slice(0, 130), people().slice(130)]).increments())
    assert len(of_file) == len(of_tables) == 3
    for one, other in zip(of_file, of_tables, strict=True):
        torch.testing.assert_close(one.labelled.inputs, other.labelled.inputs, rtol=0, atol=0)
    back = stream(tmp_path).read_back(torch.tensor([5, 250]), of_file[-1].cursor)
    assert back is not None
    wanted = cat([step.labelled for step in of_file]).take(torch.tensor([5, 250]))
    torch.testing.assert_close(back.inputs, wanted.inputs, rtol=0, atol=0)


def test_only_columns_that_an_owner_names_are_given_to_the_function(tmp_path: Path) -> None:
    pq.write_table(people().append_column("secret", pa.array(["x"] * 300)), tmp_path / "rows.parquet")
    seen: list[str] = []

    def looks(table: pa.Table) -> pa.Table:
        seen.extend(table.column_names)
        return table

    source = open_source(tmp_path, called={"weight": "kg"}, prepare=Prepare(looks, "spy:looks"))
    assert next(iter(source.fragments())).load(["weight"]).column_names == ["weight"]
    assert set(seen) == {"weight"}


def test_an_empty_file_needs_no_columns(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("")
    assert len(next(iter(open_source(tmp_path, prepare=prepare()).fragments())).load(["bmi"])) == 0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fewer, r"features\.prepare f: expected as many rows as in the rows, 300, got 299; return a row for each row"),
        (centred, r"features\.prepare f: expected the same c for a row of the rows whether it is prepared with other"),
        (lambda table: table["kg"], r"features\.prepare f: expected a pyarrow table, got ChunkedArray"),
        (lambda table: table["no"], r"features\.prepare f: expected a table of the rows of the rows, got KeyError"),
        (
            lambda table: table.append_column("kg", table["kg"]),
            r"features\.prepare f: expected each column once, got kg twice",
        ),
    ],
)
def test_what_a_function_must_not_do_is_refused(function: Any, message: str) -> None:
    with pytest.raises(StreamError, match=message):
        Prepare(function, "f")(people(), "the rows")


def test_values_are_given_in_the_types_of_the_stream() -> None:
    given: list[pa.DataType] = []
    types = raw_types(people())

    def looks(table: pa.Table) -> pa.Table:
        given.append(table["kg"].type)
        return table

    Prepare(looks, "f", types)(pa.table({"kg": [80, 90]}), "the request")
    assert set(given) == {pa.float64()}
    with pytest.raises(StreamError, match=r"expected double in kg of the request, as in features\.prepare_types, got"):
        Prepare(looks, "f", types)(pa.table({"kg": ["heavy"]}), "the request")
    with pytest.raises(ArgumentError, match=r"prepare_types\.kg: expected an Arrow type such as"):
        Prepare(looks, "f", {"kg": "number"})


def test_a_column_that_the_function_does_not_return_is_named(tmp_path: Path) -> None:
    pq.write_table(people(), tmp_path / "people.parquet")
    source = open_source(tmp_path, prepare=prepare())
    with pytest.raises(StreamError, match=r"people\.parquet: expected a column 'when' of features\.prepare"):
        next(iter(source.fragments())).load(["when"])
