"""Many rows in one request: an Arrow stream in, an Arrow stream out.

The headers of the messages are checked before the stream is read: a few bytes can declare very many rows, and
compressed buffers can expand to very many bytes. The table is validated in full before it is used.
"""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from incr_core.serving._asked import INFINITE, Asked
from incr_core.serving._request import RequestError

__all__ = ["ARROW", "BULK", "bulk_answer", "table_in"]

ARROW = "application/vnd.apache.arrow.stream"
"""The media type of an Arrow stream."""

BULK = 20
"""Factor by which the row limit of a request in Arrow exceeds that of a request in JSON."""

_DICTIONARIES, _ROWS = 2, 3
"""Kinds of messages that contain data."""


def table_in(body: bytes, most: int) -> pa.Table:
    """Return the table in a body.

    Raises:
        RequestError: The body is not an Arrow stream, has more than `most` rows, or is compressed.

    Example:
        >>> sink = pa.BufferOutputStream()
        >>> with pa.ipc.new_stream(sink, pa.schema([("x", pa.null())])) as stream:
        ...     stream.write_table(pa.table({"x": pa.nulls(10)}))
        >>> table_in(sink.getvalue().to_pybytes(), most=10).num_rows
        10
        >>> table_in(sink.getvalue().to_pybytes(), most=9)
        Traceback (most recent call last):
        ...
        incr_core.serving._request.RequestError: rows: expected at most 9, got more; ask in several requests
    """
    try:
        rows = 0
        messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
        while (message := _next(messages)) is not None:
            rows += _rows_of(message.metadata.to_pybytes())
            if rows > most:
                raise RequestError(413, f"rows: expected at most {most:,}, got more; ask in several requests")
        with pa.ipc.open_stream(pa.py_buffer(body)) as stream:
            table = stream.read_all()
        table.validate(full=True)
        names = table.column_names  # may not be text
    except (pa.ArrowException, struct.error, OSError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(400, "body: expected an Arrow stream, got another or a part of one") from None
    if not len(table):
        raise RequestError(422, "body: expected one row at least, got none")
    if len(set(names)) < len(names):
        raise RequestError(400, "body: expected each column once, got one twice")
    return table


def bulk_answer(asked: Asked, table: pa.Table) -> bytes:
    """Return the answers for a table: the columns of `Version.predict`, and the reason if a row has no answer."""
    try:
        told, bad = asked.table(table)
    except pa.ArrowException as error:
        raise RequestError(422, f"the request: expected columns as the model wants them, got others: {error}") from None
    reasons: dict[int, str] = {row.offset: f"{row.column}: {row.reason}" for row in bad}
    told = told.drop_columns(["row"])
    finite = pa.array([True]).take(pa.array([0] * len(told)))
    for column in told.columns:
        if pa.types.is_floating(column.type):
            finite = pc.and_(finite, pc.fill_null(pc.is_finite(column), True))
    if not pc.all(finite).as_py():
        reasons |= dict.fromkeys(pc.indices_nonzero(pc.invert(finite)).to_pylist(), INFINITE)
        columns = [pc.if_else(finite, column, pa.scalar(None, column.type)) for column in told.columns]
        told = pa.table(columns, told.column_names)
    told = told.append_column("refused", pa.array([reasons.get(row) for row in range(len(told))], pa.string()))
    told = told.replace_schema_metadata({"version": str(asked.version.number)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, told.schema) as stream:
        stream.write_table(told)
    return bytes(sink.getvalue())


def _next(messages: Any) -> Any:
    try:
        return messages.read_next_message()
    except StopIteration:
        return None


def _rows_of(metadata: bytes) -> int:
    """Return the number of rows that a message declares.

    Args:
        metadata: A flatbuffer, see Message.fbs and Schema.fbs of Arrow. Only a few of its fields are read.

    Raises:
        RequestError: The message is compressed.
    """
    root = struct.unpack_from("<I", metadata)[0]
    kind, header = _field(metadata, root, 1), _field(metadata, root, 2)
    if kind is None or header is None or metadata[kind] not in (_DICTIONARIES, _ROWS):
        return 0
    batch = header + struct.unpack_from("<I", metadata, header)[0]
    if metadata[kind] == _DICTIONARIES:
        data = _field(metadata, batch, 1)
        if data is None:
            return 0
        batch = data + struct.unpack_from("<I", metadata, data)[0]
    if _field(metadata, batch, 3) is not None:
        raise RequestError(415, "body: expected an Arrow stream without compression, got one with it; leave it out")
    length = _field(metadata, batch, 0)
    rows = 0 if length is None else int(struct.unpack_from("<q", metadata, length)[0])
    if rows < 0:
        raise ValueError(rows)
    return rows


def _field(metadata: bytes, table: int, number: int) -> int | None:
    """Return the position of a field in a flatbuffer's table; None without the field."""
    fields = table - struct.unpack_from("<i", metadata, table)[0]
    size = struct.unpack_from("<H", metadata, fields)[0]
    if 4 + 2 * number >= size:
        return None
    at = struct.unpack_from("<H", metadata, fields + 4 + 2 * number)[0]
    return table + at if at else None
