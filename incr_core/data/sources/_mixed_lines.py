"""JSON lines with columns of mixed types, which Arrow cannot read, so that a wrong value affects one row only."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

__all__ = ["is_mixed", "read_mixed_lines"]

MIXED = {b"incr.mixed": b"1"}


def is_mixed(field: pa.Field) -> bool:
    """Whether a column is text only because its values have several types."""
    return MIXED.items() <= (field.metadata or {}).items()


def read_mixed_lines(content: bytes) -> pa.Table:
    """Read JSON lines as a table.

    A column of several types becomes text, as in CSV: numbers and lists in their JSON notation. In a column that mostly
    holds lists, other values become an empty list. Such rows are bad rows when they are encoded.

    Raises:
        ValueError: A line is not a JSON object.

    Example:
        >>> read_mixed_lines(b'{"x": 1.5, "at": [1]}\\n{"x": "n/a", "at": [2]}\\n{"x": 2, "at": 3}').to_pydict()
        {'x': ['1.5', 'n/a', '2'], 'at': [[1], [2], []]}
    """
    rows = [json.loads(line) for line in content.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected an object in each line")
    columns, fields = [], []
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(name) for row in rows]
        column = _of_one_kind(values)
        metadata = None
        if column is None:
            column, metadata = _of_many(values), MIXED
        columns.append(column)
        fields.append(pa.field(name, column.type, metadata=metadata))
    return pa.table(columns, schema=pa.schema(fields))


def _of_one_kind(values: list[Any]) -> pa.Array | None:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeError):
        return None


def _of_many(values: list[Any]) -> pa.Array:
    lists = [value for value in values if isinstance(value, list)]
    if 2 * len(lists) > sum(value is not None for value in values):
        kept = [value if _is_usual(value) else [] for value in values]
        column = _of_one_kind(kept)
        if column is not None:
            return column
    return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])


def _is_usual(value: Any) -> bool:
    """Whether the value is null or a list of numbers."""
    return value is None or (isinstance(value, list) and all(one is None or type(one) in (int, float) for one in value))
