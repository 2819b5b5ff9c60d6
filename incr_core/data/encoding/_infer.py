"""Inference from the data of settings that a job leaves out: the classes, and the kind of each column."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from incr_core.data._prepare import Prepare
from incr_core.data.encoding._columns import is_list, share_of_numbers
from incr_core.data.encoding._hashing import indexed, text
from incr_core.data.encoding._kinds import MOSTLY, ColumnKind, is_number, is_text, kind_of_column, numbers_rows
from incr_core.data.sources import (
    FileSource,
    Fragment,
    PythonSource,
    Source,
    check_columns,
    index_columns,
    is_mixed,
    is_opaque,
    open_source,
)
from incr_core.errors import StreamError

__all__ = ["Columns", "column_kinds", "find_classes"]

MOST_CLASSES = 10_000
"""Maximum number of distinct labels that are classes; with more the column is an id or a measurement."""

FEW_CLASSES = 20
"""This many distinct labels with fractions may be classes, for any number of rows."""


def find_classes(
    source: str | Path | Callable[[], Iterable[Any]],
    label: str,
    *,
    objective: str = "multiclass",
    format: str | None = None,
    tolerant: bool = False,
    settle: float = 0.0,
    prepare: Prepare | None = None,
) -> list[Any]:
    """Return the distinct labels of a whole source, sorted: as numbers if all are numbers, otherwise as text.

    "" is not a label. For a multilabel objective these are the distinct labels in a column of lists. A Python source
    may never end, so for a binary objective it is read only until two labels, or a 0, are found.

    Args:
        source: The source.
        label: Label column.
        objective: The objective.
        format: Format of the files; None uses their names.
        tolerant: Skip unreadable files; and for a binary objective ignore labels of later files beyond two, whose rows
            are bad.
        settle: Skip files written within this many seconds.
        prepare: Function that all tables pass through.

    Raises:
        StreamError: There are no rows or labels, or the labels cannot be classes.

    Example:
        >>> find_classes(lambda: [{"kind": ["b", "a"]}, {"kind": ["b", None]}], "kind")
        ['a', 'b']
    """
    found: dict[str, Any] = {}
    fault: StreamError | None = None
    rows = 0
    place = f"stream.features.{label}"
    opened = open_source(source, format, tolerant=tolerant, settle=settle, prepare=prepare)
    endless = isinstance(opened, PythonSource) and objective == "binary"

    def passed_over(fragment: Fragment, rows: int, error: Exception) -> None:
        nonlocal fault
        fault = fault or (error if isinstance(error, StreamError) else None)

    for fragment in opened.fragments(on_bad_file=passed_over if tolerant else None):
        try:
            column = fragment.load([label])[label]
        except StreamError as found_bad:
            if not tolerant:
                raise
            passed_over(fragment, 0, found_bad)
            continue
        if is_list(column.type) and objective == "multilabel":
            column = pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
        values, codes = indexed(column, f"{place} in {fragment.name}")
        rows += len(codes)
        here: dict[str, Any] = {}
        for value in (values[code] for code in np.unique(codes)):
            read = text(value)
            if read is not None and read not in ("", "nan", "inf", "-inf"):
                here.setdefault(read, int(read) if read.lstrip("-").isdigit() else value)
        if not (tolerant and objective == "binary" and found and len(found | here) > 2):
            found = here | found
        if len(found) > MOST_CLASSES:
            raise StreamError(
                f"{place}: expected at most {MOST_CLASSES:,} classes, got more by {fragment.name} "
                f'(such as "{next(iter(found))}"); name another label, or set objective = "regression"'
            )
        if endless and (len(found) > 1 or 0 in found.values()):
            break
    numeric = all(isinstance(value, int | float) for value in found.values())
    measured = numeric and any(isinstance(value, float) and value % 1 for value in found.values())
    if measured and len(found) > max(FEW_CLASSES, rows / 2):
        raise StreamError(
            f"{place}: expected classes, got {len(found):,} distinct numbers in {rows:,} rows (such as "
            f'{next(iter(found))}); set objective = "regression", or name the classes'
        )
    classes: list[Any] = sorted(found.values()) if numeric else sorted(found)
    if not rows and fault is not None:
        raise fault
    if not rows:
        young = ", ".join(list(opened.young)[:3])
        written = f" but files still being written ({young}, see stream.settle)" if young else ""
        raise StreamError(
            f"stream.path: expected rows, got none in {source}{written}; wait for data, or check the path"
        )
    if not classes:
        raise StreamError(f"{place}: expected labels to find the classes in, got none; name the classes")
    if objective == "binary":
        if set(classes) <= {0, 1}:  # true == 1; a stream that begins with one class only is binary too
            return [0, 1]
        if len(classes) != 2:
            shown = ", ".join(map(str, classes[:5])) + (", ..." if len(classes) > 5 else "")
            raise StreamError(
                f"{place}: expected two distinct labels for a binary objective, got {len(classes)} ({shown}); "
                'clean them, or set objective = "multiclass" or "regression"'
            )
    return classes


@dataclass(frozen=True, slots=True)
class Columns:
    """Use of columns: numbers, categories, texts, and those left out, with the reason.

    Attributes:
        numeric: Numeric columns.
        categorical: Categorical columns.
        text: Text columns.
        left_out: Reasons of columns left out.
        notes: Remarks on some columns.
    """

    numeric: list[str] = field(default_factory=list)
    categorical: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def column_kinds(
    source: str | Path | Callable[[], Iterable[Any]],
    taken: Collection[str | None] = (),
    *,
    exclude: Sequence[str] = (),
    format: str | None = None,
    tolerant: bool = False,
    settle: float = 0.0,
    prepare: Prepare | None = None,
) -> Columns:
    """Infer the use of a source's columns from its first rows, except those `taken`.

    Numbers and lists of numbers are numeric. Categorical are text (in any encoding), booleans, integers with the name
    of an id, and dictionary-encoded columns (pandas' Categorical, including numbers). Text of several words that is
    mostly distinct is text. Times, pandas' index, row counters and other types are left out. Text in a CSV file, and a
    column of JSON lines with mixed types, is numeric if nine in ten values are numbers. Unreadable files are skipped if
    `tolerant`; files written within `settle` seconds are always skipped.

    Args:
        source: The source.
        taken: Columns with another use, such as the label.
        exclude: Columns to leave out.
        format: Format of the files; None uses their names.
        tolerant: As above.
        settle: As above.
        prepare: As above.

    Raises:
        StreamError: A column in `exclude` does not exist.

    Example:
        >>> found = column_kinds(lambda: [{"age": [3.0], "name": ["x"], "late": [True]}], {"late"})
        >>> found.numeric, found.categorical
        (['age'], ['name'])
    """
    opened = open_source(source, format, tolerant=tolerant, settle=settle, prepare=prepare)
    guessed = isinstance(opened, FileSource) and opened.is_csv
    found = Columns()
    check_excluded(opened, exclude)
    there = _first_values(opened)
    for name, column in there.items():
        if name in taken:
            continue
        if name in exclude:
            found.left_out[name] = "as the job says"
            continue
        declared = pa.types.is_dictionary(column.type)
        _sort_in(found, name, column, kind_of_column(name, column, guessed=guessed, declared=declared))
    return found


def _sort_in(found: Columns, name: str, column: pa.ChunkedArray, kind: ColumnKind) -> None:
    """Add a column to its use. If the first rows are constant or null, its type decides."""
    what = kind.name
    if what in ("constant", "empty"):
        if is_number(column.type) or (is_list(column.type) and is_number(column.type.value_type)):
            what = "number"
        elif is_text(column.type) or pa.types.is_boolean(column.type) or pa.types.is_dictionary(column.type):
            what = "category"
    if what == "row number" and not numbers_rows(name):
        what = "number"  # judging by the first rows it may also increase with time
    if what in ("number", "list") and (pa.types.is_duration(column.type) or pa.types.is_time(column.type)):
        what = "other"
    if what in ("number", "list"):
        found.numeric.append(name)
    elif what in ("category", "flag", "id", "key"):
        found.categorical.append(name)
        found.notes[name] = f"{kind.distinct:,} values" + (f", {kind.why}" if what == "id" and kind.why else "")
    elif what == "text":
        found.text.append(name)
        found.notes[name] = kind.why
    else:
        why = {"time": "a time: features.date makes numbers of it", "other": str(column.type)}
        found.left_out[name] = kind.why or why.get(what, what)


def check_excluded(source: Source, exclude: Sequence[str]) -> None:
    """StreamError where a column that is to be left out is not there.

    >>> check_excluded(open_source(lambda: [{"age": [3.0]}]), ["agee"])
    Traceback (most recent call last):
    ...
    incr_core.errors.StreamError: features.exclude: expected a column "agee", got age; the nearest is "age"; rename it
    here or in the job
    """
    if exclude:
        head = source.head()
        check_columns(
            [*head.column_names, *index_columns(head.schema) - {*head.column_names}], exclude, "features.exclude"
        )


def _first_values(source: Source) -> dict[str, pa.ChunkedArray]:
    """Return the columns of the first rows, without indices.

    A column of untyped nulls is taken from the first file in which it has a type.
    """
    head = source.head()
    left_out = index_columns(head.schema) | {field.name for field in head.schema if is_opaque(field)}
    found = {name: head[name] for name in head.column_names if name not in left_out}
    for name in [name for name in found if is_mixed(head.schema.field(name)) and is_text(found[name].type)]:
        if share_of_numbers(found[name]) >= MOSTLY:  # text because of a few values only
            found[name] = pa.chunked_array([], pa.float64())
    untyped = {name for name, column in found.items() if pa.types.is_null(column.type)}
    if untyped and isinstance(source, FileSource):
        for later in source.heads(sorted(untyped), typed=True):
            for name in untyped.intersection(later.column_names):
                if not pa.types.is_null(later[name].type):
                    found[name] = later[name]
                    untyped.discard(name)
            if not untyped:
                break
    return found
