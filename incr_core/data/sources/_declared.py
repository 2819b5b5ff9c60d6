"""Declarations in a table's metadata besides column types: pandas' index, categories, extension types."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["index_columns", "is_opaque", "plain", "with_categories"]

_UNNAMED_INDEX = r"__index_level_\d+__|Unnamed: 0(\.\d+)?|"
"""Names of an unnamed pandas index: in Parquet, in CSV that pandas has read again, and ("") in CSV."""

_OPAQUE = ("pandas.period", "pandas.interval")
"""Extension types that pandas registers; reading must not depend on whether pandas is imported."""


def index_columns(schema: pa.Schema) -> set[str]:
    """Return the columns that pandas wrote as a frame's index, named or not: they number or name rows.

    A RangeIndex is not a column. In files without pandas' metadata, an unnamed index is recognised by its name.

    Example:
        >>> sorted(index_columns(pa.schema([("x", pa.float64()), ("__index_level_0__", pa.int64()), ("", pa.int64())])))
        ['', '__index_level_0__']
    """
    named = {name for name in _pandas(schema, "index_columns") if isinstance(name, str)}
    return {name for name in schema.names if name in named or re.fullmatch(_UNNAMED_INDEX, name)}


def with_categories(table: pa.Table, written: dict[bytes, bytes] | None = None) -> pa.Table:
    """Return the table with the columns that were written as categories as dictionaries.

    Parquet preserves dictionaries of text only, and stores the values of others. The metadata by Arrow and pandas
    records which columns were dictionaries.

    Args:
        table: The table.
        written: Metadata of a Parquet file, which contains the schema as written.

    Example:
        >>> with_categories(pa.table({"x": [1, 2]})).schema.field("x").type
        DataType(int64)
    """
    columns = [column for column in _pandas(table.schema, "columns") if isinstance(column, dict)]
    declared = {column.get("field_name") for column in columns if column.get("pandas_type") == "categorical"}
    if written and (encoded := written.get(b"ARROW:schema")):
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(encoded)))
        declared |= {field.name for field in schema if pa.types.is_dictionary(field.type)}
    for place, field in enumerate(table.schema):
        if field.name in declared and not pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, pc.dictionary_encode(table.column(place)))
    return table


def plain(table: pa.Table) -> pa.Table:
    """Convert extension types, views and run-length encoding to types that all of Arrow supports.

    Example:
        >>> plain(pa.table({"x": pa.array(["a"], pa.string_view())})).schema.field("x").type
        DataType(large_string)
    """
    for place, field in enumerate(table.schema):
        column = table.column(place)
        if isinstance(field.type, pa.BaseExtensionType):
            column = pa.chunked_array([chunk.storage for chunk in column.chunks], field.type.storage_type)
        if pa.types.is_run_end_encoded(column.type):
            column = pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks], column.type.value_type)
        if pa.types.is_dictionary(column.type) and (words := _without_views(column.type.value_type)):
            pairs = [(chunk.indices, pc.cast(chunk.dictionary, words)) for chunk in column.chunks]
            kind = pa.dictionary(column.type.index_type, words)
            column = pa.chunked_array([pa.DictionaryArray.from_arrays(*pair) for pair in pairs], kind)
        elif words := _without_views(column.type):
            column = pc.cast(column, words)
        if column.type != field.type:
            table = table.set_column(place, pa.field(field.name, column.type, metadata=_metadata(field)), column)
    return table


def _without_views(kind: pa.DataType) -> pa.DataType | None:
    """Return the equivalent type without views, which all of Arrow supports; None if this one is not a view."""
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else None


def is_opaque(field: pa.Field) -> bool:
    """Whether a column's numbers represent something else: pandas' periods are months or days since 1970.

    Example:
        >>> is_opaque(pa.field("x", pa.int64(), metadata={"ARROW:extension:name": "pandas.period"}))
        True
    """
    return (field.metadata or {}).get(b"ARROW:extension:name", b"").decode() in _OPAQUE


def _metadata(field: pa.Field) -> Any:
    """Return the metadata of a column that loses its extension type, as if the type were not registered."""
    if not isinstance(field.type, pa.BaseExtensionType):
        return field.metadata
    return {**(field.metadata or {}), b"ARROW:extension:name": field.type.extension_name.encode()}


def _pandas(schema: pa.Schema, key: str) -> list[Any]:
    """Return a list in pandas' metadata of the table; empty if it is missing or invalid."""
    try:
        found = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    except ValueError:
        return []
    listed = found.get(key) if isinstance(found, dict) else None
    return listed if isinstance(listed, list) else []
