"""Classification of a column by its name, its type and some of its values."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from incr_core.data.encoding._columns import is_list, share_of_numbers
from incr_core.data.encoding._hashing import text
from incr_core.data.encoding._words import texts_of, words_in

__all__ = ["MOSTLY", "ColumnKind", "is_number", "is_text", "kind_of_column", "names_an_id", "numbers_rows"]

MOSTLY = 0.9
"""A text column of a CSV file with at least this share of numbers is numeric; its other values are bad rows."""

FEW_ROWS = 100
"""Minimum number of rows to conclude that a text is distinct in every row of the stream."""

WORDS = 200
"""Number of texts examined to distinguish words from names."""

_NAMES_AN_ID = re.compile(r"(^|.*[_ .-])(id|ids|uuid|guid|key|zip|zipcode|postcode|plz|phone|sku|isbn)", re.IGNORECASE)
_NUMBERS_ROWS = re.compile(r"id|rows?|row[_ ]?(id|no|nr|number)|index|idx|no|nr|number|#|unnamed.*", re.IGNORECASE)
_CAMEL_ID = re.compile(r".*[a-z](Id|ID)")
_ISO_DATE = r"^\s*\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?)?\s*$"
_OTHER_DATE = r"^\s*\d{1,4}[./-]\d{1,2}[./-]\d{1,4}([T ,]+\d{1,2}:\d\d.*)?\s*$"


@dataclass(frozen=True, slots=True)
class ColumnKind:
    """Classification of a column.

    Attributes:
        name: "number", "list" (of numbers), "category", "flag" (true or false), "id" (a number or text that identifies
            something), "key" (an id that is distinct in every row), "row number", "text" (words), "time", "constant",
            "empty" or "other".
        distinct: Number of distinct values, without null.
        missing: Number of nulls (in CSV, empty texts).
        why: Explanation, if needed.
    """

    name: str
    distinct: int
    missing: int
    why: str = ""


def kind_of_column(name: str, column: pa.ChunkedArray, *, guessed: bool = False, declared: bool = False) -> ColumnKind:
    """Classify a column by its name and some rows.

    Args:
        name: Its name.
        column: Some rows.
        guessed: Whether types are inferred (CSV).
        declared: Whether the file declares it categorical, whatever its type.

    Example:
        >>> kind_of_column("user_id", pa.chunked_array([[7, 8, 7]])).name
        'id'
        >>> kind_of_column("note", pa.chunked_array([["came late again", "all is well so far", None]])).name
        'text'
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = pc.cast(column, kind.value_type)
        kind = column.type
    if is_text(kind) and not pa.types.is_binary(kind) and not pa.types.is_large_binary(kind):
        column = pc.if_else(pc.equal(column, pa.scalar("", kind)), pa.scalar(None, kind), column)
    missing = column.null_count
    if missing == len(column):
        return ColumnKind("empty", 0, missing, "no row has a value")
    if is_list(kind):
        if is_number(kind.value_type) or pa.types.is_boolean(kind.value_type):
            return ColumnKind("list", 0, missing)
        return ColumnKind("other", 0, missing, f"lists of {kind.value_type}")
    if not _is_plain(kind):
        return ColumnKind("other", 0, missing, str(kind))
    distinct = int(pc.count_distinct(column, mode="only_valid").as_py())

    def found(what: str, why: str = "") -> ColumnKind:
        return ColumnKind(what, distinct, missing, why)

    if distinct == 1 and not missing and len(column) > 1:
        return found("constant", f'"{text(column[0].as_py())}" in every row')
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return found("time")
    if pa.types.is_boolean(kind):
        return found("flag")
    if declared:
        return found("category")
    present = len(column) - missing
    if is_text(kind):
        return _of_text(name, column, guessed, found, distinct, present)
    if not is_number(kind):  # durations and times of day
        return found("number", "in seconds")
    if not _is_whole(column):
        return found("number")
    if distinct == present > 1 and _counts_rows(column) and (numbers_rows(name) or present >= FEW_ROWS):
        return found("row number", "it counts the rows")
    if names_an_id(name):
        if distinct == present >= FEW_ROWS:
            return found("key", "another in every row")
        return found("id", "a whole number that names a thing")
    return found("number")


def names_an_id(name: str) -> bool:
    """Whether a column has the name of an id.

    Example:
        >>> [names_an_id(name) for name in ("id", "user_id", "userId", "ZIP", "paid", "width")]
        [True, True, True, True, False, False]
    """
    return _NAMES_AN_ID.fullmatch(name) is not None or _CAMEL_ID.fullmatch(name) is not None


def numbers_rows(name: str) -> bool:
    """Whether a column has the name of a row counter.

    Example:
        >>> [numbers_rows(name) for name in ("row", "id", "Index", "user_id", "x")]
        [True, True, True, False, False]
    """
    return _NUMBERS_ROWS.fullmatch(name) is not None


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text; text that is not UTF-8 is read as binary."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def is_number(kind: pa.DataType) -> bool:
    """Whether a type is a number."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _of_text(
    name: str, column: pa.ChunkedArray, guessed: bool, found: Callable[..., ColumnKind], distinct: int, present: int
) -> ColumnKind:
    if guessed and pa.types.is_string(column.type) and share_of_numbers(column) >= MOSTLY:
        return found("number")
    column = texts_of(column, name)
    if _share_like(column, _ISO_DATE) >= MOSTLY:
        return found("time")
    if _share_like(column, _OTHER_DATE) >= MOSTLY:
        return found("other", "dates that are not written as 2026-01-31")
    some = pa.chunked_array([pc.unique(pc.drop_null(column)).slice(0, WORDS)])
    words = float(words_in(some)[1].mean())
    spelled = _share_like(some, r"\pL\pL") >= MOSTLY
    if spelled and ((words >= 2 and distinct >= 0.9 * present) or (words >= 4 and distinct >= 0.5 * present)):
        return found("text", f"{words:.0f} words")
    if distinct == present >= FEW_ROWS:
        return found("key", "another in every row")
    return found("id" if names_an_id(name) else "category")


def _share_like(column: pa.ChunkedArray, pattern: str) -> float:
    there = pc.drop_null(column)
    return int(pc.sum(pc.match_substring_regex(there, pattern)).as_py() or 0) / max(len(there), 1)


def _is_plain(kind: pa.DataType) -> bool:
    timed = pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind)
    return is_text(kind) or is_number(kind) or timed or bool(pa.types.is_boolean(kind) or pa.types.is_duration(kind))


def _is_whole(column: pa.ChunkedArray) -> bool:
    """Whether all numbers are integers; pandas writes integers with missing values as floats."""
    if pa.types.is_integer(column.type):
        return True
    values = pc.drop_null(pc.cast(column, pa.float64(), safe=False)).to_numpy()
    return bool(np.all(np.isfinite(values) & (np.abs(values) < 2**53)) and np.all(values == np.rint(values)))


def _counts_rows(column: pa.ChunkedArray) -> bool:
    """Whether each row's number is one more than that of the row before."""
    steps = np.diff(pc.cast(pc.drop_null(column), pa.float64(), safe=False).to_numpy())
    return bool((steps == 1).all())
