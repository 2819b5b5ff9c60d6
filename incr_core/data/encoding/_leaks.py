"""Detection of label leaks: a single column whose values predict the label (almost) perfectly.

Such a column is usually the label in another form, or is recorded when the label is known, and is not available when a
row is to be predicted.
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
"""Minimum number of labelled rows for which a perfect rule is significant."""

FAULTS = 0.02
"""Maximum error of a column's rule, relative to the error of always predicting the most common class."""

FITS = 0.9995
"""Minimum share of a numeric label's variance that the rule explains."""

BINS = 1000
"""Number of quantile ranges for numeric columns."""

MOST_VOTES = 10**7
"""Maximum number of values times classes; beyond it each value has too few rows per class."""


def gives_away(column: pa.ChunkedArray, label: pa.ChunkedArray, *, classes: bool) -> bool:
    """Whether a column alone predicts the label: a rule from every other row is tested on the rows in between.

    Args:
        column: The column.
        label: The label.
        classes: Whether labels are classes; otherwise they are numbers.

    Example:
        >>> label = pa.chunked_array([[0, 1, 1, 0, 1] * 40])
        >>> words = pa.chunked_array([["no", "yes", "yes", "no", "yes"] * 40])
        >>> numbers = pa.chunked_array([[1, 2, 3, 4] * 50])
        >>> gives_away(words, label, classes=True), gives_away(numbers, label, classes=True)
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
    """Whether linear interpolation between every other row's values predicts the target of the rest."""
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
    """Return each row's value or, with many numbers, range (B,); missing values form one of them."""
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
