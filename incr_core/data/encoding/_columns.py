"""Numeric columns: conversion of an Arrow column of any numeric type to floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from incr_core.errors import StreamError
from incr_core.shown import shown

__all__ = [
    "Fault",
    "floats",
    "is_list",
    "list_matrix",
    "numbers",
    "numpy_of",
    "parsed",
    "share_of_numbers",
    "unusable",
    "values_of",
    "width_of",
]

Floats = np.ndarray[Any, np.dtype[Any]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"


@dataclass(slots=True)
class Fault:
    """Unusable rows of a column, with the reason.

    Attributes:
        index: Their offsets in the table.
        column: The column.
        expected: Description of valid values.
        got: Description of the actual values.
        remedy: Remedy besides correcting the rows.
    """

    index: np.ndarray[Any, np.dtype[np.int64]]
    column: str
    expected: str
    got: str
    remedy: str = ""


def is_list(kind: pa.DataType) -> bool:
    """Whether a type holds several values per row.

    Example:
        >>> is_list(pa.list_(pa.uint8(), 784)), is_list(pa.float32())
        (True, False)
    """
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def width_of(column: pa.ChunkedArray) -> int | None:
    """Return the numbers per row of a column, or None if it has only nulls or no rows.

    Example:
        >>> width_of(pa.chunked_array([[[1, 2, 3]]])), width_of(pa.chunked_array([[1]]))
        (3, 1)
    """
    if not is_list(column.type):
        return 1
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    lengths = pc.drop_null(pc.list_value_length(column))
    return int(lengths[0].as_py()) if len(lengths) else None


def numbers(column: pa.ChunkedArray, name: str, place: str) -> tuple[Floats, list[Fault]]:
    """Return the column as one array with NaN for null, and the rows that are not a finite float32.

    Dates are days since 1970, timestamps likewise with a fraction; durations and times of day are seconds.

    Example:
        >>> numbers(pa.chunked_array([["1.5", "n/a", None]]), "distance", "day.csv")[1][0].got
        'text'
    """
    column, faults = parsed(column, name, place)
    values = floats(column)
    return values, faults + unusable(column, values, name)


def parsed(column: pa.ChunkedArray, name: str, place: str) -> tuple[pa.ChunkedArray, list[Fault]]:
    """Return the column as integers, floats or booleans, and the rows whose text is not a number.

    Example:
        >>> parsed(pa.chunked_array([["1.5"]]), "distance", "day.csv")[0].type
        DataType(double)
    """
    faults: list[Fault] = []
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = pc.cast(column, kind.value_type)
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column, words = _from_text(column, name, place)
        if len(words):
            faults.append(Fault(words, name, "float", "text"))
    elif pa.types.is_date(kind):
        column = pc.cast(pc.cast(column, pa.date32()), pa.int32())
    elif pa.types.is_timestamp(kind):
        micros = pc.cast(pc.cast(column, pa.timestamp("us", tz=kind.tz), safe=False), pa.int64())
        column = pc.divide(pc.cast(micros, pa.float64(), safe=False), 86400e6)
    elif pa.types.is_duration(kind):
        column = pc.divide(pc.cast(pc.cast(column, pa.duration("us"), safe=False), pa.int64()), 1e6)
    elif pa.types.is_time(kind):
        exact = pa.time64("us") if pa.types.is_time32(kind) else kind
        unit = 1e9 if exact == pa.time64("ns") else 1e6
        column = pc.divide(pc.cast(pc.cast(column, exact), pa.int64()), unit)
    elif pa.types.is_decimal(kind) or pa.types.is_null(kind):
        column = pc.cast(column, pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise StreamError(f"stream.features.{name}: expected float, got {kind} in {place}; convert it or leave it out")
    return column, faults


def share_of_numbers(column: pa.ChunkedArray) -> float:
    """Return the share of numbers among the texts of a column, without "" and null.

    Example:
        >>> share_of_numbers(pa.chunked_array([["1", "2.5", "", None, "n/a", "-1e3"]]))
        0.75
    """
    there = column.filter(pc.fill_null(pc.not_equal(column, pa.scalar("", column.type)), False))
    if not len(there):
        return 0.0
    return int(pc.sum(pc.match_substring_regex(there, _NUMBER)).as_py()) / len(there)


def floats(column: pa.ChunkedArray) -> Floats:
    """Return a parsed column as one array, with NaN for null; without a copy if it is one already.

    Example:
        >>> floats(pa.chunked_array([[1, None], [3]]))
        array([ 1., nan,  3.])
    """
    chunks = [numpy_of(chunk) for chunk in column.chunks]
    return chunks[0] if len(chunks) == 1 else np.concatenate([*chunks, np.zeros(0)])


def unusable(column: pa.ChunkedArray, values: Floats, name: str) -> list[Fault]:
    """Return the rows of a parsed column that hold NaN, infinity, or a number beyond float32. Nulls are valid.

    Example:
        >>> unusable(pa.chunked_array([[1.0, None, 1e39]]), np.array([1.0, np.nan, 1e39]), "x")[0].got
        'too large for one'
    """
    if not pa.types.is_floating(column.type):
        return []
    faults = []
    broken = ~np.isfinite(values)
    # A null reads as NaN: a closer check is needed only if there are more NaNs than nulls.
    if np.count_nonzero(broken) > column.null_count:
        index = np.flatnonzero(broken & column.is_valid().to_numpy())
        faults.append(Fault(index, name, "a finite number", "NaN or infinite"))
    with np.errstate(invalid="ignore"):
        large = (np.abs(values) > np.finfo(np.float32).max) & ~broken
    if large.any():
        faults.append(Fault(np.flatnonzero(large), name, "a float32", "too large for one"))
    return faults


def values_of(chunk: pa.Array) -> tuple[Floats, Mask | None]:
    """Return the numbers of a chunk, with 0 for null, and a mask of nulls; None if there are none.

    Example:
        >>> values_of(pa.array([7, None]))
        (array([7, 0]), array([False,  True]))
    """
    if not chunk.null_count:
        return numpy_of(chunk), None
    if pa.types.is_boolean(chunk.type):
        chunk = pc.cast(chunk, pa.uint8())
    return numpy_of(pc.fill_null(chunk, 0)), chunk.is_null().to_numpy(zero_copy_only=False)


def numpy_of(chunk: pa.Array) -> Floats:
    """Return the numbers of a chunk, without a copy if there are no nulls, otherwise with NaN for null.

    Example:
        >>> numpy_of(pa.array([True, None]))
        array([ 1., nan])
    """
    if pa.types.is_boolean(chunk.type):
        chunk = pc.cast(chunk, pa.uint8())
    return np.asarray(chunk.to_numpy(zero_copy_only=False))


def list_matrix(column: pa.ChunkedArray, width: int, name: str, place: str) -> tuple[Floats, list[Fault]]:
    """Return a column of lists as (B, width) float32. A null list, or an untyped null, is a row of NaN.

    Example:
        >>> list_matrix(pa.chunked_array([[[1, 2], [3]]]), 2, "pixels", "a.parquet")[1][0].expected
        '2 numbers'
    """
    if pa.types.is_null(column.type):
        return np.full((len(column), width), np.nan, dtype=np.float32), []
    if not is_list(column.type) or not _is_plain(column.type.value_type):
        raise StreamError(
            f"stream.features.{name}: expected lists of {width} numbers, got {column.type} in {place}; convert it"
        )
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    null = pc.is_null(column).to_numpy()
    right = lengths == width
    rows = np.flatnonzero(right & ~null)
    matrix = np.full((len(column), width), np.nan, dtype=np.float32)
    # `flatten` skips null lists, including those of fixed size.
    kept = column if len(rows) == len(column) else column.take(pa.array(rows))
    flat = [numpy_of(chunk.flatten()) for chunk in kept.chunks]
    if len(rows):
        with np.errstate(over="ignore"):  # overflow gives infinity, which is detected below
            matrix[rows] = np.concatenate(flat).reshape(-1, width)
    faults = []
    wrong = np.flatnonzero(~right & ~null)
    if len(wrong):
        faults.append(Fault(wrong, name, f"{width} numbers", "of another length"))
    broken = rows[~np.isfinite(matrix[rows]).all(axis=1)]
    if len(broken):
        faults.append(Fault(broken, name, "finite numbers", "NaN, null or infinite"))
    return matrix, faults


def _is_plain(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _from_text(column: pa.ChunkedArray, name: str, place: str) -> tuple[pa.ChunkedArray, Any]:
    """Parse text as numbers; return them, and the rows that hold other text. "" is missing."""
    kind = column.type
    column = pc.if_else(pc.equal(column, pa.scalar("", kind)), pa.scalar(None, kind), column)
    numeric = pc.fill_null(pc.match_substring_regex(column, _NUMBER), False)
    words = pc.and_(pc.is_valid(column), pc.invert(numeric))
    index = np.flatnonzero(words.to_numpy())
    if len(index) and len(index) == len(column) - column.null_count:
        example = column[int(index[0])].as_py()
        raise StreamError(
            f'stream.features.{name}: expected float, got text ("{shown(example, 60)}") in every row of {place}; '
            "list it as categorical, or convert it"
        )
    parsed = pc.cast(pc.utf8_trim_whitespace(pc.if_else(numeric, column, pa.scalar(None, kind))), pa.float64())
    return parsed, index
