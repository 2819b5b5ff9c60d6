"""Count what is decoded of Parquet files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

__all__ = ["count_decoded"]


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
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
