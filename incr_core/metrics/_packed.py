"""Statistics as they travel, in few bytes that are quickly read, and the sum of many of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from incr_core.metrics._sums import Array, Statistics, padded_sum

__all__ = ["Packed", "Told", "added", "packed", "packed_array", "total", "unpacked"]

WORTH_THINNING = 1000
"""Numbers of an array."""

Told = tuple[str, tuple[int, ...], bytes, bytes | None]
"""An array as its type, its shape, its numbers, and, where these are only those that are not zero, at which places,
int64, of the array laid flat. A plain tuple: a thousand messages of numpy's own arrays, or of a class of ours, take
several times as long to read."""

Packed = Mapping[str, Array | Told]
"""Statistics as they are, or as they travel."""


def packed(statistics: Packed) -> dict[str, Told]:
    """Statistics in few bytes: of few rows a histogram is mostly zero.

    >>> told = packed({"sums": np.ones(2), "scores": np.eye(1, 2000, 7)})
    >>> told["sums"][:2], [len(content) for content in told["scores"][2:]]
    (('<f8', (2,)), [8, 8])
    """
    return {name: array if isinstance(array, tuple) else packed_array(array) for name, array in statistics.items()}


def packed_array(array: Array) -> Told:
    """An array in few bytes.

    >>> unpacked(packed_array(np.array([1, 2])))
    array([1, 2])
    """
    if array.size >= WORTH_THINNING:
        places = np.flatnonzero(array)
        if 4 * len(places) < array.size:
            return array.dtype.str, array.shape, array.flat[places].tobytes(), places.astype(np.int64).tobytes()
    return array.dtype.str, array.shape, array.tobytes(), None


def unpacked(told: Array | Told) -> Array:
    """The array. It may be one that cannot be written to."""
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
    """The statistics of the rows of all, as `add` makes them one after the other; of a thousand at once, by column.

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
    """The sum of arrays, in their order; the bytes of many small ones that are alike are laid end to end.

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
    """All of them, where they are packed, of one type and shape, and in few bytes; else none."""
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
    # Not `sum`, which may take them in pairs: other bits than those of adding them in turn.
    array = np.add.accumulate(numbers.reshape(len(told), -1), axis=0, dtype=dtype)[-1]
    return array.reshape(shape).copy()
