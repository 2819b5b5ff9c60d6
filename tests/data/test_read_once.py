"""How much of a stream's files is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.data.encoding import column_kinds


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many rows of each column have been decoded of Parquet files."""
    rows: Counter[str] = Counter()

    class Counting(pq.ParquetFile):  # type: ignore[misc]
        def read(self, **how: Any) -> pa.Table:
            table = super().read(**how)
            rows.update(dict.fromkeys(table.column_names, len(table)))
            return table

        def iter_batches(self, *given: Any, **how: Any) -> Iterator[pa.RecordBatch]:
            for batch in super().iter_batches(*given, **how):
                rows.update(dict.fromkeys(batch.schema.names, len(batch)))
                yield batch

    monkeypatch.setattr(pq, "ParquetFile", Counting)
    return rows


def test_to_find_the_type_of_a_column_of_nulls_no_other_is_decoded(tmp_path: Path, decoded: Counter[str]) -> None:
    for day in range(20):
        late = pa.array([1.5]) if day == 19 else pa.nulls(1)
        pq.write_table(pa.table({"x": [1.0], "late": late, "never": pa.nulls(1)}), tmp_path / f"{day}.parquet")
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "3.parquet")  # lacks them
    assert column_kinds(tmp_path) == (["x", "late"], [])
    assert decoded == {"x": 1, "late": 2, "never": 1}
