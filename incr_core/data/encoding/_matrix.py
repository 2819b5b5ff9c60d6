"""Encoding of several columns: numbers as a float32 matrix, categories as pairs of hashes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from incr_core.data.encoding._columns import Fault, floats, list_matrix, parsed, unusable, values_of
from incr_core.data.encoding._dates import date_parts
from incr_core.data.encoding._hashing import ColumnHash

__all__ = ["hash_pairs", "numeric_matrix"]

SLICE = 16_384
"""Number of rows written at a time, so that a slice of the matrix stays in the cache while its columns are filled."""


def numeric_matrix(
    table: pa.Table, places: Mapping[str, range], lists: Mapping[str, int], place: str, dates: Collection[str] = ()
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], list[Fault]]:
    """Return numeric columns as (B, N) float32, with NaN for null, and the unusable rows.

    Args:
        table: The table.
        places: Places of each column among the N numbers.
        lists: Lengths of the lists, by column.
        place: Names the file in errors.
        dates: Time columns that are converted to their parts.

    Example:
        >>> table = pa.table({"far": [1, None], "at": [[1.0, 2.0], [3.0, 4.0]]})
        >>> numeric_matrix(table, {"far": range(1), "at": range(1, 3)}, {"at": 2}, "day.csv")[0]
        array([[ 1.,  1.,  2.],
               [nan,  3.,  4.]], dtype=float32)
    """
    matrix = np.empty((len(table), sum(map(len, places.values()))), dtype=np.float32)
    plain: dict[str, pa.ChunkedArray] = {}
    faults: list[Fault] = []
    for name, columns in places.items():
        if name in lists:
            matrix[:, columns.start : columns.stop], found = list_matrix(table[name], len(columns), name, place)
        elif name in dates:
            matrix[:, columns.start : columns.stop], found = date_parts(table[name], name, place)
        else:
            plain[name], found = parsed(table[name], name, place)
        faults += found
    suspects: set[str] = set()
    done = 0
    for batch in pa.table(plain).to_batches() if plain else []:
        read = [(name, places[name].start, *values_of(batch[name])) for name in plain]
        with np.errstate(over="raise", invalid="ignore"):
            for start in range(0, len(batch), SLICE):
                stop = min(start + SLICE, len(batch))
                rows = matrix[done + start : done + stop]
                for name, index, values, missing in read:
                    if not _copy(values[start:stop], rows[:, index]):
                        suspects.add(name)
                    if missing is not None:
                        rows[missing[start:stop], index] = np.nan
        done += len(batch)
    for name in plain:
        if name in suspects:
            faults += unusable(plain[name], floats(plain[name]), name)
    return matrix, faults


def _copy(values: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> bool:
    """Copy numbers to float32, raising on overflow; return False if any may be NaN, infinite, or too large."""
    try:
        target[:] = values
        # A sum is finite only if every term is; otherwise the values are checked one by one.
        return values.dtype.kind != "f" or bool(np.isfinite(np.add.reduce(values)))
    except FloatingPointError:
        with np.errstate(over="ignore"):
            target[:] = values
        return False


def hash_pairs(
    table: pa.Table, hashes: Mapping[str, ColumnHash], buckets: int, place: str
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return two independent hashes into [0, buckets) of each row's category in each of the C columns, (B, C, 2).

    Example:
        >>> table = pa.table({"carrier": ["AA", "UA", "AA"]})
        >>> pairs = hash_pairs(table, {"carrier": ColumnHash("carrier")}, 1024, "a.csv")
        >>> pairs.shape, bool((pairs[0] == pairs[2]).all())
        ((3, 1, 2), True)
    """
    # A pair of hashes is moved as one complex128, the fastest type of 16 bytes.
    pairs = np.empty((len(table), len(hashes)), dtype=np.complex128)
    columns = []
    for name, hashed in hashes.items():
        distinct, codes = hashed.distinct(table[name], place)
        # Each half of a hash is an independent hash.
        halves = np.stack([distinct & np.uint64(0xFFFFFFFF), distinct >> np.uint64(32)], axis=1)
        columns.append(((halves % np.uint64(buckets)).astype(np.int64).view(np.complex128).ravel(), codes))
    for start in range(0, len(table), SLICE):
        rows = slice(start, start + SLICE)
        for column, (pair, codes) in enumerate(columns):
            pairs[rows, column] = pair.take(codes[rows], mode="clip")
    return pairs.view(np.int64).reshape(len(table), len(hashes), 2)
