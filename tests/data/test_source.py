"""Sources: fragments in natural order, whatever names them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core._util import prefetch
from incr_core.data.sources import open_source, read_table
from incr_core.errors import StreamError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": [1.0]}), folder / name)


def test_names_are_in_natural_order_and_relative(tmp_path: Path) -> None:
    touch(tmp_path, "day-10.parquet", "day-2.parquet", "month=1/day=1.parquet", "_x.parquet", ".tmp/a.parquet")
    assert open_source(tmp_path).names == ["day-2.parquet", "day-10.parquet", "month=1/day=1.parquet"]
    assert open_source(f"{tmp_path}/day-*.parquet").names == ["day-2.parquet", "day-10.parquet"]
    assert open_source(f"{tmp_path}/**/*.parquet").names == open_source(tmp_path).names
    assert open_source(tmp_path / "day-2.parquet").names == ["day-2.parquet"]


def test_a_factory_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_rows.py").write_text("def rows():\n    yield {'x': [1.0, 2.0]}\n")
    monkeypatch.syspath_prepend(tmp_path)
    (fragment,) = open_source("their_rows:rows").fragments()
    assert fragment.load(["x"])["x"].to_pylist() == [1.0, 2.0]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.jsonl"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"x": [[[')
    with pytest.raises(
        StreamError, match=f"the {name}: expected a whole .* file, got one that cannot be read .*write it"
    ):
        read_table(tmp_path / name, ["x"], None, f"the {name}")


def test_what_arrow_quotes_of_a_file_is_shown_as_one_line_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x\n1,\x00\x01" + b"\n" * 9)
    with pytest.raises(StreamError) as caught:
        read_table(tmp_path / "a.csv", None, None, "a.csv")
    assert str(caught.value).isprintable()


def test_a_path_that_the_system_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        StreamError, match=r"stream.path: expected files that can be read in .*, got: File name too long"
    ):
        open_source(tmp_path / ("x" * 300))


def test_an_ending_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("x\n1\n")
    with pytest.raises(StreamError, match=r"expected a file ending in one of .*set stream.format to say what it is"):
        open_source(tmp_path / "a.xyz")
    assert open_source(tmp_path / "a.xyz", "csv").head().column_names == ["x"]


def test_prefetch_hands_on_an_error_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("later")

    found = prefetch(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="later"):
        next(found)


def test_prefetch_reads_no_further_than_asked() -> None:
    seen: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            seen.append(number)
            yield number

    found = prefetch(items(), depth=2)
    assert [next(found), next(found)] == [0, 1]
    found.close()
    assert len(seen) <= 5


@pytest.mark.parametrize("kind", ["parquet", "csv", "python"])
def test_a_column_named_twice_is_refused(tmp_path: Path, kind: str) -> None:
    table = pa.table([pa.array([1.0]), pa.array([2.0]), pa.array([3.0])], ["x", "x", "y"])
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        path.write_text("x,x,y\n1,2,3\n")
    source = open_source(lambda: [table]) if kind == "python" else open_source(path)
    (fragment,) = source.fragments()
    with pytest.raises(StreamError, match=r': expected column "x" once, found it 2 times; rename one$'):
        fragment.load(["x", "y"])
    assert fragment.load(["y"])["y"].to_pylist() == [3.0]
