"""Columns and types of a table: comparison of a delivery with the table, and order of the columns."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from incr_core.data.sources import open_source
from incr_core.errors import StreamError

__all__ = ["difference", "in_order", "schema_in"]


def difference(expected: pa.Schema, got: pa.Schema) -> str | None:
    """Return the first differences between two schemas, or None. The order of the columns does not count.

    Example:
        >>> difference(pa.schema({"x": pa.int64(), "y": pa.bool_()}), pa.schema({"x": pa.string(), "z": pa.bool_()}))
        'column x: expected int64, got string; column y: expected bool, got none; column z: expected none, got bool'
    """
    faults = []
    for name in dict.fromkeys([*expected.names, *got.names]):
        ours, theirs = (_types(one, name) for one in (expected, got))
        if ours != theirs:
            faults.append(f"column {name}: expected {ours}, got {theirs}")
    more = f"; {len(faults) - 5} more columns differ" if len(faults) > 5 else ""
    return "; ".join(faults[:5]) + more or None


def _types(schema: pa.Schema, name: str) -> str:
    return " and ".join(str(schema.field(place).type) for place in schema.get_all_field_indices(name)) or "none"


def in_order(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch with its columns in the order of the table.

    Example:
        >>> in_order(pa.record_batch({"y": [1], "x": [2]}), pa.schema({"x": pa.int64(), "y": pa.int64()})).column_names
        ['x', 'y']
    """
    return batch if batch.schema.names == schema.names else batch.select(schema.names)


def schema_in(path: str | Path) -> pa.Schema:
    """Return the columns of a file, or of the first file of a folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.csv").write_text("x\\n1\\n"); str(schema_in(folder).field("x"))
        'pyarrow.Field<x: int64>'
    """
    schema = open_source(path).head().schema
    if not len(schema):
        raise StreamError(f"{path}: expected a file with columns, got none; name a file with rows of the table")
    return schema.remove_metadata()
