"""Columns that give the label away: a rule over one column alone that predicts it (nearly) without fault.

Such a column is mostly the label in other words, or is written down when the label is known, and will not be there when
a row is to be predicted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from incr_core.data.encoding._kinds import is_number

__all__ = ["gives_away"]

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

FEWEST = 60
"""Of fewer rows with a label a rule without fault means nothing."""

FAULTS = 0.02
"""A column gives classes away whose rule is wrong in at most this share of the rows in which the commonest class is."""

FITS = 0.9995
"""A column gives a number away whose rule tells at least this share of its variance."""

BINS = 1000
"""Into how many ranges of about equally many rows numbers are cut."""

MOST_VOTES = 10**7
"""Values times classes beyond which no rule is made: each value has few rows for each class."""


def gives_away(column: pa.ChunkedArray, label: pa.ChunkedArray, *, classes: bool) -> bool:
    """Whether a column alone predicts the label: a rule made of every other row is tried on the rows between.

    classes: whether labels are classes; if not, they are numbers.

    >>> label = pa.chunked_array([[0, 1, 1, 0, 1] * 40])
    >>> words = pa.chunked_array([["no", "yes", "yes", "no", "yes"] * 40])
    >>> gives_away(words, label, classes=True), gives_away(pa.chunked_array([[1, 2, 3, 4] * 50]), label, classes=True)
    (True, False)
    """
    there = pc.is_valid(label)
    column, label = column.filter(there), label.filter(there)
    if len(label) < FEWEST or pa.types.is_nested(column.type) or pa.types.is_nested(label.type):
        return False
    if not classes:
        return is_number(column.type) and _fits(_floats(column), _floats(label))
    places, targets = _bins(column), _codes(label)
    fitted, tried = slice(0, None, 2), slice(1, None, 2)
    count = int(targets.max()) + 1
    if (int(places.max()) + 1) * count > MOST_VOTES:
        return False
    votes = np.zeros((int(places.max()) + 1, count), dtype=np.int32)
    np.add.at(votes, (places[fitted], targets[fitted]), 1)
    commonest = int(np.bincount(targets[fitted], minlength=count).argmax())
    rule = np.where(votes.any(axis=1), votes.argmax(axis=1), commonest)
    wrong = float((rule[places[tried]] != targets[tried]).mean())
    by_chance = float((targets[tried] != commonest).mean())
    return by_chance > 0 and wrong <= FAULTS * by_chance


def _fits(values: Floats, target: Floats) -> bool:
    """Whether a line through the other rows' values, from one to the next, gives the target."""
    good = np.isfinite(values) & np.isfinite(target)
    values, target = values[good], target[good]
    if len(values) < FEWEST:
        return False
    known, places = np.unique(values[::2], return_inverse=True)
    heights = np.bincount(places, target[::2]) / np.bincount(places)
    tried = target[1::2]
    left = tried - np.interp(values[1::2], known, heights)
    spread = float(((tried - tried.mean()) ** 2).sum())
    return spread > 0 and len(known) > 2 and float((left**2).sum()) <= (1 - FITS) * spread


def _bins(column: pa.ChunkedArray) -> Ints:
    """Which value, or of many numbers which range, each row has (B,); what is missing is one of them."""
    if is_number(column.type) and pc.count_distinct(column).as_py() > BINS:
        values = _floats(column)
        edges = np.unique(np.nanquantile(values[np.isfinite(values)], np.linspace(0, 1, BINS)))
        return np.where(np.isfinite(values), np.searchsorted(edges, values), len(edges) + 1).astype(np.int64)
    return _codes(column)


def _codes(column: pa.ChunkedArray) -> Ints:
    encoded = pc.dictionary_encode(column, null_encoding="encode").combine_chunks()
    encoded = encoded if isinstance(encoded, pa.DictionaryArray) else encoded.chunk(0)
    codes: Ints = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def _floats(column: pa.ChunkedArray) -> Floats:
    values: Floats = pc.cast(column, pa.float64(), safe=False).to_numpy().astype(np.float64)
    return values
