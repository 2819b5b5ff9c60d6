"""Payloads of a broker's entries as rows: `json` (an object or a list of objects), or `arrow` (an IPC stream)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from incr_core.errors import ArgumentError
from incr_core.ingest._schema import difference, in_order

__all__ = ["rows_of"]


def rows_of(fields: Mapping[bytes, bytes], schema: pa.Schema | None, max_bytes: int) -> pa.RecordBatch:
    """Return the rows of one entry.

    JSON rows are read by the types of the table. Each has all columns; a missing value is null. Times are text in
    ISO 8601.

    Args:
        fields: Names and values of the entry.
        schema: Columns of the table; None before its first rows, whose types are then inferred.
        max_bytes: Bytes of a payload.

    Raises:
        ArgumentError: The payload cannot be read, or has other columns than the table.

    Example:
        >>> rows_of({b"json": b'[{"x": 1, "y": "a"}, {"x": 2, "y": null}]'}, None, 1000).to_pydict()
        {'x': [1, 2], 'y': ['a', None]}
        >>> rows_of({b"json": b'{"x": 1}'}, pa.schema({"x": pa.int64(), "y": pa.string()}), 1000)
        Traceback (most recent call last):
        ...
        incr_core.errors.ArgumentError: row 0: expected the columns x, y, got x
    """
    if len(fields) != 1 or not fields.keys() <= {b"json", b"arrow"}:
        names = ", ".join(name.decode(errors="replace")[:40] for name in list(fields)[:5])
        raise ArgumentError(f'entry: expected one field, "json" or "arrow", got {names or "none"}')
    ((name, payload),) = fields.items()
    if len(payload) > max_bytes:
        raise ArgumentError(f"entry: expected at most {max_bytes:,} bytes, got {len(payload):,}")
    try:
        batch = _of_json(payload, schema) if name == b"json" else _of_arrow(payload)
        batch.validate(full=True)
    except (pa.ArrowException, ValueError, OverflowError, RecursionError, TypeError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise ArgumentError(f"entry: expected {name.decode()}, got a payload that cannot be read: {error}") from error
    if schema is None:
        return batch
    fault = difference(schema, batch.schema)
    if fault is not None:
        raise ArgumentError(fault)
    return in_order(batch, schema)


def _of_arrow(payload: bytes) -> pa.RecordBatch:
    with pa.ipc.open_stream(payload) as stream:
        table = stream.read_all()
    # One batch: dictionaries of several batches are unified first.
    batches = table.unify_dictionaries().combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)


def _of_json(payload: bytes, schema: pa.Schema | None) -> pa.RecordBatch:
    found = json.loads(payload, parse_constant=_no_constant)
    rows = found if isinstance(found, list) else [found]
    if not rows or not all(isinstance(row, dict) and row for row in rows):
        raise ArgumentError("entry: expected a JSON object, or a list of objects, got another value")
    names = list(rows[0]) if schema is None else schema.names
    for place, row in enumerate(rows):
        if row.keys() != set(names):
            raise ArgumentError(f"row {place}: expected the columns {', '.join(names)}, got {', '.join(row)}")
    columns = {name: _column([row[name] for row in rows], name, schema) for name in names}
    return pa.record_batch(columns)


def _column(values: Sequence[Any], name: str, schema: pa.Schema | None) -> pa.Array:
    """Return values in the type of the table's column."""
    if schema is None:
        array = pa.array(values)
        if array.type == pa.null():
            raise ArgumentError(f"column {name}: expected a value in the first rows, got null; give --schema")
        return array
    type = schema.field(name).type
    if all(value is None or isinstance(value, str) for value in values) and not pa.types.is_string(type):
        return pa.array(values, pa.string()).cast(type)
    return pa.array(values, type)


def _no_constant(text: str) -> float:
    raise ArgumentError(f"entry: expected JSON, got {text}, which is none; write null")
