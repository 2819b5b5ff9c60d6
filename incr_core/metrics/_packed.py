"""Statistics as they travel, in few bytes that are quickly read, and the sum of many of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from incr_core.metrics._sums import Array, Statistics, padded_sum

__all__ = ["Packed", "Raw", "Sparse", "packed", "raw", "total"]

WORTH_PACKING = 1000
"""Numbers of an array."""


class Raw(NamedTuple):
    """An array as its type, its shape and its bytes: numpy's own pickles take ten times as long to read.

    >>> Raw("<f8", (2,), bytes(16)).array()
    array([0., 0.])
    """

    dtype: str
    shape: tuple[int, ...]
    content: bytes

    def array(self) -> Array:
        """The array, which cannot be written to."""
        return np.frombuffer(self.content, self.dtype).reshape(self.shape)


def raw(array: Array) -> Raw:
    """An array as bytes.

    >>> raw(np.array([1, 2])).array()
    array([1, 2])
    """
    return Raw(array.dtype.str, array.shape, array.tobytes())


class Sparse(NamedTuple):
    """An array by its numbers that are not zero, and where in it, flat, they are."""

    shape: tuple[int, ...]
    places: Raw
    values: Raw

    def array(self) -> Array:
        """The array."""
        array = np.zeros(self.shape)
        array.reshape(-1)[self.places.array()] = self.values.array()
        return array


Packed = Mapping[str, Array | Raw | Sparse]
"""Statistics as they are, or as they travel."""


def packed(statistics: Packed) -> Packed:
    """Statistics in few bytes: of few rows a histogram is mostly zero.

    >>> told = packed({"sums": np.ones(2), "scores": np.eye(1, 2000, 7)})
    >>> told["sums"].shape, told["scores"].values.array()
    ((2,), array([1.]))
    """
    return {name: _packed(array) if isinstance(array, np.ndarray) else array for name, array in statistics.items()}


def _packed(array: Array) -> Raw | Sparse:
    if array.size >= WORTH_PACKING:
        places = np.flatnonzero(array)
        if 4 * len(places) < array.size:
            return Sparse(array.shape, raw(places), raw(array.flat[places]))
    return raw(array)


def total(several: Iterable[Packed]) -> Statistics:
    """The statistics of the rows of all, as `add` makes them one after the other, without a copy for each.

    >>> total([{"sums": np.ones(2)}, {}, packed({"sums": np.ones(2)})])
    {'sums': array([2., 2.])}
    >>> one = packed({"scores": np.eye(1, 2000, 7)})
    >>> total([one, one])["scores"][0, 6:9], total([one, packed({"scores": np.eye(2, 2000, 7)})])["scores"][:, 6:10]
    (array([0., 2., 0.]), array([[0., 2., 0., 0.],
           [0., 0., 1., 0.]]))
    """
    sums: Statistics = {}
    for statistics in several:
        for name, told in statistics.items():
            mine = sums.get(name)
            if isinstance(told, Sparse):
                if mine is None:
                    mine = sums[name] = np.zeros(told.shape)
                if mine.shape == told.shape:
                    mine.reshape(-1)[told.places.array()] += told.values.array()  # a view: it lies in one piece
                else:
                    sums[name] = padded_sum(mine, told.array())
                continue
            array = told.array() if isinstance(told, Raw) else told
            if mine is None:
                sums[name] = array.copy()
            elif mine.shape == array.shape and mine.dtype == array.dtype:
                mine += array
            else:
                sums[name] = padded_sum(mine, array)
    return sums
