"""Serialisation of tables as Parquet and Arrow files."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["arrow_bytes", "parquet_bytes", "read_table"]


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as the content of a Parquet file.

    Integers are delta-encoded in the necessary number of bits; counters with constant increments take almost no space.
    Text is dictionary-encoded. All data is compressed with zstd.

    Example:
        >>> read_table("a.parquet", parquet_bytes(pa.table({"row": [1, 2]}))).num_rows
        2
        >>> len(parquet_bytes(pa.table({"row": range(0, 10**6, 32)}))) < 2000
        True
    """
    sink = pa.BufferOutputStream()
    leaves = list(_leaves("", pa.struct(list(table.schema))))
    whole = [name for name, kind in leaves if kind == pa.int64()]
    text = [name for name, kind in leaves if kind == pa.string()]
    encodings = dict.fromkeys(whole, "DELTA_BINARY_PACKED") or None
    pq.write_table(table, sink, compression="zstd", use_dictionary=text, column_encoding=encodings)
    return bytes(sink.getvalue())


def _leaves(prefix: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """Yield the leaf columns of a Parquet file, by their names for nested types."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{prefix}.{field.name}" if prefix else field.name, field.type)
    elif pa.types.is_list(kind):
        yield from _leaves(f"{prefix}.list.element", kind.value_type)
    else:
        yield prefix, kind


def arrow_bytes(table: pa.Table) -> bytes:
    """Return a table as the content of an Arrow file, which supports every Arrow type.

    Example:
        >>> read_table("a.arrow", arrow_bytes(pa.table({"row": [1, 2]}))).num_rows
        2
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def read_table(name: str, content: bytes) -> pa.Table:
    """Return the table in the content of a file called `name`: *.parquet, or else Arrow.

    Example:
        >>> read_table("a.parquet", b"PAR1 cut")
        Traceback (most recent call last):
        ...
        pyarrow.lib.ArrowInvalid: Parquet ...
    """
    buffer = pa.BufferReader(content)
    if not name.endswith(".parquet"):
        return pa.ipc.open_file(buffer).read_all()
    with pq.ParquetFile(buffer) as file:  # the scanner of `pq.read_table` takes milliseconds to start
        # Without threads: if a thread of Arrow releases `content` while Python exits, the process aborts.
        return file.read(use_threads=False)
