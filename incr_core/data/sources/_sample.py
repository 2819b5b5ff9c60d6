"""A sample of rows from all parts of a source, sufficient to inspect its columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from incr_core.data.sources._file_source import FileSource
from incr_core.data.sources._fragment import Fragment
from incr_core.errors import StreamError
from incr_core.shown import shown

__all__ = ["Sample", "sample_of"]

FILES = 20
"""Maximum number of files read, evenly spread over all."""

ROWS = 200_000
"""Approximate number of rows sampled."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of a source, in order.

    Attributes:
        table: The rows.
        rows: Total number of rows; None if unknown without reading all.
        files: Total number of files.
    """

    table: pa.Table
    rows: int | None
    files: int

    @property
    def whole(self) -> bool:
        """Whether the sample contains all rows."""
        return self.rows == len(self.table)


def sample_of(source: FileSource) -> Sample:
    """Sample rows from the files of a source: some of many files, and some row groups of large Parquet files.

    Raises:
        StreamError: Files have different columns, or there are no rows.

    Example:
        >>> import fsspec
        >>> from incr_core.data.sources import open_source
        >>> fsspec.filesystem("memory").pipe({"/s/1.csv": b"x,y\\n3,a\\n", "/s/2.csv": b"x,y\\nb,a\\n"})
        >>> sample_of(open_source("memory://s")).table["x"].to_pylist()
        ['3', 'b']
    """
    fragments = list(source.fragments())
    places = np.unique(np.linspace(0, len(fragments) - 1, min(FILES, len(fragments))).round().astype(int))
    chosen = [fragments[place] for place in places]
    columns = _columns_of(source, [fragment.name for fragment in chosen])
    tables, totals = [], []
    for fragment in chosen:
        table, total = _some(fragment, columns, ROWS // len(chosen))
        tables.append(table)
        totals.append(total)
    table = _joined(tables)
    if not len(table):
        raise StreamError(f"{shown(chosen[0].name)}: expected rows, got none; wait for data, or check the path")
    return Sample(table, sum(totals) if len(chosen) == len(fragments) else None, len(fragments))


def _columns_of(source: FileSource, names: list[str]) -> list[str]:
    """The columns that all these files have. StreamError where one has others."""
    heads = {name: head for name in names if (head := source.head_of(name)).column_names}
    first = next(iter(heads), names[0])
    columns: list[str] = heads[first].column_names if heads else []
    for name, head in heads.items():
        lacks = [column for column in columns if column not in head.column_names]
        more = [column for column in head.column_names if column not in columns]
        if lacks or more:
            told = [f"lacks {_listed(lacks)}"] * bool(lacks) + [f"has {_listed(more)} besides"] * bool(more)
            raise StreamError(
                f"{shown(name)}: expected the columns of {shown(first)}, got a file that {' and '.join(told)}; "
                "name files of one kind (a file, a folder, or a glob)"
            )
    return columns


def _listed(columns: list[str]) -> str:
    return ", ".join(shown(column, 60) for column in columns[:5]) + ", ..." * (len(columns) > 5)


def _some(fragment: Fragment, columns: list[str], most: int) -> tuple[pa.Table, int]:
    """Return about `most` rows spread over a file, and its number of rows."""
    parts = [] if fragment.part_rows is None else fragment.part_rows()
    if fragment.read_part is None or len(parts) < 2 or None in parts:
        table = fragment.load(columns)
        return _spread(table, most), len(table)
    sizes = [rows or 0 for rows in parts]
    wanted = max(1, round(len(parts) * most / max(sum(sizes), 1)))
    places = np.unique(np.linspace(0, len(parts) - 1, min(wanted, len(parts))).round().astype(int))
    read = [table for place in places for table in fragment.read_part(columns, int(place))]
    return _spread(pa.concat_tables(read), most), sum(sizes)


def _spread(table: pa.Table, most: int) -> pa.Table:
    """Return at most `most` rows of a table, in several runs of consecutive rows."""
    if len(table) <= most:
        return table
    runs = 10
    starts = np.linspace(0, len(table) - most // runs, runs).astype(int)
    return pa.concat_tables([table.slice(start, most // runs) for start in starts.tolist()])


def _joined(tables: list[pa.Table]) -> pa.Table:
    """Concatenate tables of the same columns; a column that is text in one file becomes text."""
    tables = [table for table in tables if len(table)] or tables[:1]
    columns = {}
    for name in tables[0].column_names:
        chunks = [_plain(chunk) for table in tables for chunk in table[name].chunks]
        kinds = list(dict.fromkeys(chunk.type for chunk in chunks if not pa.types.is_null(chunk.type)))
        try:
            kind = _one_of(kinds)
            columns[name] = pa.chunked_array([pc.cast(chunk, kind) for chunk in chunks], kind)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            raise StreamError(
                f"{shown(name, 60)}: expected one type in all files, got {', '.join(map(str, kinds))}; write them alike"
            ) from None
    return pa.table(columns)


def _plain(chunk: pa.Array) -> pa.Array:
    """Return an array without the dictionary with which Parquet text is read."""
    return pc.cast(chunk, chunk.type.value_type) if pa.types.is_dictionary(chunk.type) else chunk


def _one_of(kinds: list[pa.DataType]) -> pa.DataType:
    """Return a common type for values of all these types; text if there is no other."""
    if not kinds:
        return pa.null()
    schemas = [pa.schema([("x", kind)]) for kind in kinds]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowTypeError:
        return pa.string()
