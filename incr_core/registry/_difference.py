"""Descriptions of the difference between two tables."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

__all__ = ["difference_of"]


def difference_of(table: pa.Table, expected: pa.Table) -> str | None:
    """Describe how a table differs from the expected one; None if it does not. Columns without values are ignored.

    Example:
        >>> difference_of(pa.table({"auc": [0.5, 0.7]}), pa.table({"auc": [0.5, 0.8]}))
        '2, of which row 1 is auc 0.7 where the version says auc 0.8'
    """
    one, other = _narrowed(table), _narrowed(expected)
    if (row := _first_difference(one, other)) is None:
        return None
    return f"{len(one):,}, of which row {row} is {_shown(one, row)} where the version says {_shown(other, row)}"


def _narrowed(table: pa.Table) -> pa.Table:
    """Remove columns without values: a segment has the columns of all its versions."""
    return table.select([name for name in table.column_names if table[name].null_count < len(table)])


def _first_difference(one: pa.Table, other: pa.Table) -> int | None:
    """Return the first row in which two tables differ; None if they are equal."""
    rows = min(len(one), len(other))
    first = rows if len(one) != len(other) else None
    if rows and set(one.column_names) != set(other.column_names):
        return 0
    for name in one.column_names if rows else ():
        mine, theirs = one[name].slice(0, rows), other[name].slice(0, rows)
        if mine.type != theirs.type or not mine.equals(theirs):
            found = next((row for row in range(rows) if not _same(mine[row].as_py(), theirs[row].as_py())), None)
            first = found if first is None else first if found is None else min(first, found)
    return first


def _same(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))  # NaN is NaN here


def _shown(table: pa.Table, row: int) -> str:
    if row >= len(table):
        return "nothing"
    values = {name: value for name, value in table.slice(row, 1).to_pylist()[0].items() if value is not None}
    return ", ".join(f"{name} {value}" for name, value in list(values.items())[:5])
