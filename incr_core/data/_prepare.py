"""A function of raw tables that a job applies to all rows before any other step (`features.prepare`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from incr_core.errors import ArgumentError, StreamError
from incr_core.shown import shown

__all__ = ["Prepare", "raw_types"]

CHECKED = 64
"""Rows of the first table that are also prepared in two parts."""

_LIST = re.compile(r"(?:large_)?list<\w+: (.+)>|fixed_size_list<\w+: (.+)>\[\d+\]")
_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:, tz=(.+))?\]")


class Prepare:
    """A function of a table, applied where rows are read: columns are added, renamed or derived.

    The function is called with tables of any number of rows, and its result for a row may depend on this row only. It
    returns as many rows as it was given, in their order. Row counts are checked at every call. The first table of more
    than one row is also prepared in two parts, and the results must agree.

    Args:
        function: The function of a pyarrow table, which returns a table.
        name: Its name in the job, for error messages.
        types: Types by raw column (`raw_types`). Values are converted to them before the call, so that rows of a file,
            of a request and of a table in memory are given to the function alike. Other columns stay as they are,
            except that dictionaries, as which text of Parquet is read, become plain values.

    Example:
        >>> import pyarrow.compute as pc
        >>> def with_bmi(table):
        ...     return table.append_column("bmi", pc.divide(table["kg"], pc.power(table["m"], 2.0)))
        >>> prepare = Prepare(with_bmi, "people:with_bmi", {"kg": "double", "m": "double"})
        >>> prepare(pa.table({"kg": [80, 50], "m": [2, 1]}), "rows.csv")["bmi"].to_pylist()
        [20.0, 50.0]
        >>> Prepare(lambda table: table.slice(1), "people:rest")(pa.table({"kg": [80, 50]}), "rows.csv")
        Traceback (most recent call last):
        ...
        incr_core.errors.StreamError: features.prepare people:rest: expected as many rows as in rows.csv, 2, got 1;
        return a row for each row, and leave rows out before the stream or by a null label
    """

    def __init__(
        self, function: Callable[[pa.Table], pa.Table], name: str, types: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._function = function
        self._types = {column: _type_of(kind, column) for column, kind in (types or {}).items()}
        self._is_checked = False

    def __call__(self, table: pa.Table, place: str) -> pa.Table:
        """Return the prepared rows of a table; `place` names the table in errors.

        Raises:
            StreamError: A value cannot be converted, the function fails, or its result is not one row for each row.
        """
        table = self._converted(table, place)
        found = self._called(table, place)
        if not self._is_checked and len(table) > 1:
            self._check_rows_alone(table.slice(0, CHECKED), found.slice(0, CHECKED), place)
            self._is_checked = True
        return found

    def columns(self, table: pa.Table, columns: Sequence[str] | None, place: str) -> pa.Table:
        """Return some columns of the prepared rows of a table, all if None.

        Raises:
            StreamError: As above, or there is no such column.
        """
        if not table.column_names and columns is not None:  # an empty file without a header
            return pa.table({name: pa.nulls(0) for name in columns})
        found = self(table, place)
        if columns is None:
            return found
        if absent := [name for name in columns if name not in found.column_names]:
            known = ", ".join(shown(name, 60) for name in found.column_names)
            raise StreamError(
                f"{place}: expected a column {shown(absent[0], 60)!r} of features.prepare {self.name}, got {known}; "
                "return it, or rename it in the job"
            )
        return found.select(list(columns))

    def _converted(self, table: pa.Table, place: str) -> pa.Table:
        columns = {}
        for name, column in zip(table.column_names, table.columns, strict=True):
            plain = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
            kind = self._types.get(name, plain)
            if column.type != kind:
                try:
                    column = column.cast(kind)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise StreamError(
                        f"features.prepare {self.name}: expected {kind} in {shown(name, 60)} of {shown(place)}, as in "
                        f"features.prepare_types, got {column.type}: {shown(error, 120)}; convert the column, or "
                        "change its type there"
                    ) from error
            columns[name] = column
        return pa.table(columns) if columns else table

    def _called(self, table: pa.Table, place: str) -> pa.Table:
        try:
            found = self._function(table)
        except Exception as error:  # any fault of the function is a fault of these rows
            raise StreamError(
                f"features.prepare {self.name}: expected a table of the rows of {shown(place)}, got "
                f"{type(error).__name__}: {shown(error, 200)}; mend the function"
            ) from error
        if isinstance(found, pa.RecordBatch):
            found = pa.Table.from_batches([found])
        if not isinstance(found, pa.Table):
            raise StreamError(
                f"features.prepare {self.name}: expected a pyarrow table, got {type(found).__name__}; return a table"
            )
        if len(found) != len(table):
            raise StreamError(
                f"features.prepare {self.name}: expected as many rows as in {shown(place)}, {len(table):,}, got "
                f"{len(found):,}; return a row for each row, and leave rows out before the stream or by a null label"
            )
        if twice := sorted({name for name in found.column_names if found.column_names.count(name) > 1}):
            raise StreamError(
                f"features.prepare {self.name}: expected each column once, got {shown(twice[0], 60)} twice; rename one"
            )
        return found

    def _check_rows_alone(self, table: pa.Table, whole: pa.Table, place: str) -> None:
        """Raise a StreamError if parts of a table are prepared differently from the whole."""
        half = len(table) // 2
        parts = [self._called(part, place) for part in (table.slice(0, half), table.slice(half))]
        for name in whole.column_names:
            both = [part[name] for part in parts if name in part.column_names]
            alike = len(both) == len(parts) and [value for one in both for value in one.to_pylist()]
            if repr(alike) != repr(whole[name].to_pylist()):  # repr, because NaN differs from itself
                raise StreamError(
                    f"features.prepare {self.name}: expected the same {shown(name, 60)} for a row of {shown(place)} "
                    "whether it is prepared with other rows or not, got another; let the result for a row depend on "
                    "this row only"
                )


def raw_types(table: pa.Table) -> dict[str, str]:
    """Return the types of the columns of a table, as text, of those whose types have a name.

    Example:
        >>> raw_types(pa.table({"x": [1], "at": pa.array([0], pa.timestamp("us", "UTC")), "words": [["a"]]}))
        {'x': 'int64', 'at': 'timestamp[us, tz=UTC]', 'words': 'list<item: string>'}
    """
    found = {}
    for field in table.schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        try:
            _type_of(str(kind), field.name)
        except ArgumentError:
            continue
        found[field.name] = str(kind)
    return found


def _type_of(kind: str, column: str) -> Any:
    """Return the Arrow type of a name as Arrow prints it."""
    if listed := _LIST.fullmatch(kind):
        return pa.list_(_type_of(listed[1] or listed[2], column))
    if timed := _TIMESTAMP.fullmatch(kind):
        return pa.timestamp(timed[1], timed[2])
    try:
        return pa.type_for_alias(kind)
    except ValueError:
        raise ArgumentError(
            f'prepare_types.{column}: expected an Arrow type such as "int64", "double", "string", "bool", '
            f'"timestamp[us]" or "list<item: double>", got {kind!r}; leave the column out'
        ) from None
