"""Compact encoding of statistics for messages, and the sum of many encoded statistics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from incr_core.metrics._sums import Array, Statistics, padded_sum

__all__ = ["Packed", "Told", "added", "packed", "packed_array", "total", "unpacked"]

WORTH_THINNING = 1000
"""Minimum number of elements for which an array may be encoded sparsely."""

Told = tuple[str, tuple[int, ...], bytes, bytes | None]
"""An encoded array: dtype, shape, elements and, if only the nonzero elements are included, their flat int64 places.
Decoding a thousand messages of plain tuples is several times as fast as decoding numpy arrays or instances of a class.
"""

Packed = Mapping[str, Array | Told]
"""Statistics, plain or encoded."""


def packed(statistics: Packed) -> dict[str, Told]:
    """Encode statistics compactly: a histogram of few rows is mostly zero.

    Example:
        >>> told = packed({"sums": np.ones(2), "scores": np.eye(1, 2000, 7)})
        >>> told["sums"][:2], [len(content) for content in told["scores"][2:]]
        (('<f8', (2,)), [8, 8])
    """
    return {name: array if isinstance(array, tuple) else packed_array(array) for name, array in statistics.items()}


def packed_array(array: Array) -> Told:
    """Encode an array compactly.

    Example:
        >>> unpacked(packed_array(np.array([1, 2])))
        array([1, 2])
    """
    if array.size >= WORTH_THINNING:
        places = np.flatnonzero(array)
        if 4 * len(places) < array.size:
            return array.dtype.str, array.shape, array.flat[places].tobytes(), places.astype(np.int64).tobytes()
    return array.dtype.str, array.shape, array.tobytes(), None


def unpacked(told: Array | Told) -> Array:
    """Decode an array. The result may be read-only."""
    if not isinstance(told, tuple):
        return told
    dtype, shape, content, places = told
    numbers = np.frombuffer(content, dtype)
    if places is None:
        return numbers.reshape(shape)
    array = np.zeros(shape, dtype)
    array.reshape(-1)[np.frombuffer(places, np.int64)] = numbers
    return array


def total(several: Iterable[Packed]) -> Statistics:
    """Return the sum of several statistics, as repeated `add` would; added by column, which is fast for thousands.

    Example:
        >>> total([{"sums": np.ones(2)}, {}, packed({"sums": np.ones(2)})])
        {'sums': array([2., 2.])}
        >>> one = packed({"scores": np.eye(1, 2000, 7)})
        >>> total([one, one])["scores"][0, 6:9], total([one, packed({"scores": np.eye(2, 2000, 7)})])["scores"][:, 6:10]
        (array([0., 2., 0.]), array([[0., 2., 0., 0.],
               [0., 0., 1., 0.]]))
    """
    columns: dict[str, list[Array | Told]] = {}
    for statistics in several:
        for name, told in statistics.items():
            columns.setdefault(name, []).append(told)
    return {name: added(column) for name, column in columns.items()}


def added(column: Sequence[Array | Told]) -> Array:
    """Return the sum of arrays, in their order; small arrays of equal kind are concatenated and added at once.

    Example:
        >>> added([packed_array(np.array([1, 2])), packed_array(np.array([3, 4]))])
        array([4, 6])
    """
    alike = _alike(column)
    if alike:
        return _added_at_once(alike)
    array = unpacked(column[0]).copy()
    for other in map(unpacked, column[1:]):
        if array.shape == other.shape and array.dtype == other.dtype:
            array += other
        else:
            array = padded_sum(array, other)
    return array


def _alike(column: Sequence[Array | Told]) -> list[Told]:
    """Return all arrays if they are encoded compactly with one dtype and shape, otherwise an empty list."""
    told = [one for one in column if isinstance(one, tuple)]
    kinds = {(dtype, shape, places is None) for dtype, shape, _, places in told}
    if len(told) < len(column) or len(kinds) > 1:
        return []
    _, shape, _, places = told[0]
    return told if places is not None or math.prod(shape) < WORTH_THINNING else []


def _added_at_once(told: Sequence[Told]) -> Array:
    dtype, shape, _, places = told[0]
    numbers = np.frombuffer(b"".join(one[2] for one in told), dtype)
    if places is not None:
        array: Array = np.zeros(shape, dtype)
        np.add.at(array.reshape(-1), np.frombuffer(b"".join(one[3] or b"" for one in told), np.int64), numbers)
        return array
    # Not `sum`, whose pairwise summation gives different bits than sequential addition.
    array = np.add.accumulate(numbers.reshape(len(told), -1), axis=0, dtype=dtype)[-1]
    return array.reshape(shape).copy()
