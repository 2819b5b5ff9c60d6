"""Numbers per row of each column, determined from the data once and then checked in every table.

A model is made for rows of one width. The lengths of lists are therefore part of the job, as its columns are; later
rows are checked against them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from incr_core.data.encoding._columns import is_list
from incr_core.data.sources import FileSource, Source
from incr_core.errors import StreamError

__all__ = ["check_widths", "list_widths"]


def list_widths(source: Source, columns: Sequence[str]) -> dict[str, int]:
    """Return the lengths of lists in those `columns` of a source that hold lists, from its first rows.

    If the first file has only nulls or no rows, the next ones are read. Of a Python source, which may never end, only
    the first table with rows is read.

    Raises:
        StreamError: A column holds lists that are all null or empty.

    Example:
        >>> from incr_core.data.sources import open_source
        >>> list_widths(open_source(lambda: [{"pixels": [[1, 2, 3]], "age": [30.0]}]), ["pixels", "age"])
        {'pixels': 3}
    """
    found: dict[str, int] = {}
    lists: set[str] = set()
    unsure = list(columns)
    if not columns or (isinstance(source, FileSource) and source.is_csv):  # CSV has no lists
        return found
    for head in source.heads(columns) if isinstance(source, FileSource) else [source.head(columns)]:
        for name in [name for name in unsure if name in head.column_names]:
            kind, lengths = head[name].type, _lengths(head[name])
            if lengths:
                found[name] = lengths[0]
            elif is_list(kind):
                lists.add(name)
            if lengths or not (is_list(kind) or pa.types.is_null(kind)):
                unsure.remove(name)
        if not unsure:
            break
    if missing := sorted(lists.intersection(unsure)):
        raise StreamError(
            f"stream.features.{missing[0]}: expected a list of known length, got only null and empty "
            f"ones; set features.widths = {{ {missing[0]} = 784 }}"
        )
    return {name: found[name] for name in columns if name in found}


def check_widths(
    table: pa.Table, widths: Mapping[str, int], columns: Sequence[str], place: str, spare: int = 0
) -> None:
    """Check the widths of a table's columns. Single lists of another length are bad rows, found by encoding.

    Args:
        table: The table.
        widths: Lengths of lists, by column; the other `columns` hold one number per row.
        columns: The columns.
        place: Names the table in errors.
        spare: Number of elements by which lists may be shorter.

    Raises:
        StreamError: A column has lists instead of numbers or the reverse, or no list of the right length.

    Example:
        >>> check_widths(pa.table({"pixels": [[1, 2], [3, 4]]}), {"pixels": 3}, ["pixels"], "b.parquet")
        Traceback (most recent call last):
        ...
        incr_core.errors.StreamError: stream.features.pixels: expected lists of 3 numbers, got lists of 2 in ...
    """
    for name in columns:
        kind, width, lengths = table[name].type, widths.get(name), _lengths(table[name])
        if width is None:
            fits = not is_list(kind)
        else:
            fits = is_list(kind) and (not lengths or any(width - spare <= length <= width for length in lengths))
        if not fits and not pa.types.is_null(kind):
            expected = "a number" if width is None else f"lists of {width} numbers"
            raise StreamError(
                f"stream.features.{name}: expected {expected}, got {_shown(kind, lengths)} in {place}; write it as the "
                "rows that the run began with, or take it out"
            )


def _lengths(column: pa.ChunkedArray) -> list[int]:
    """Return the distinct lengths of a column's non-empty lists, in the order of rows."""
    if not is_list(column.type):
        return []
    if pa.types.is_fixed_size_list(column.type):
        return [int(column.type.list_size)]
    return [length for length in pc.unique(pc.list_value_length(column)).to_pylist() if length]


def _shown(kind: pa.DataType, lengths: Sequence[int]) -> str:
    if not is_list(kind):
        return str(kind)
    if not lengths:
        return "lists"
    return f"lists of {lengths[0]}" if len(lengths) == 1 else f"lists of {min(lengths)} to {max(lengths)}"
