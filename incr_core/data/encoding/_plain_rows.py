"""Encoding of rows of plain values, as in a request, without an intermediate table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from incr_core.batch import Inputs
from incr_core.data.encoding._encoder import Encoder
from incr_core.data.encoding._hashing import id_key, text
from incr_core.data.encoding._id_numbers import no_ids

__all__ = ["PlainRows", "plain_category", "plain_number"]

Row = Mapping[str, Any]

MOST = float(np.finfo(np.float32).max)
"""Largest float32."""

EXACT = 2**53
"""Up to this number an integer is exact as a float, so the type of its column does not matter."""

_NUMBERS = frozenset([int, float, bool])


class PlainRows:
    """Encodes dict rows to the same bits as an `Encoder` does with a table of them, at a tenth of the cost.

    It supports ordinary values only: finite numbers, text, booleans, null, and lists of the right length. For all
    others the result is None, and encoding a table reports the fault and the rows left out.

    Args:
        encoder: The encoder.

    Example:
        >>> encoder = Encoder("late", ["distance"], ["carrier"], objective="binary", classes=None)
        >>> plain = PlainRows(encoder)
        >>> plain.inputs([{"distance": 170, "carrier": "AA"}])["numeric"]
        tensor([[170.]])
        >>> plain.inputs([{"distance": "far", "carrier": "AA"}]) is None
        True
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._numbers = [(name, encoder.widths.get(name)) for name in encoder.numeric]
        self._lists = any(width is not None for _, width in self._numbers)
        self._width = encoder.width if not encoder.of_tokens else 0
        self._hashes, self._ids = encoder.hashes, encoder.ids
        self._tasks = int(np.iinfo(np.int64).max) if encoder.tasks is None else encoder.tasks
        self._never = encoder.of_tokens or bool(encoder.date) or encoder.task in encoder.inputs
        self._never |= encoder.pretrained is not None

    def inputs(self, rows: Sequence[Row]) -> Inputs | None:
        """Return a model's inputs for at least one row; None if a value is not supported."""
        if self._never:
            return None
        try:
            numeric, pairs, task = self._numeric(rows), self._pairs(rows), self._task(rows)
        except (KeyError, OverflowError):  # a missing column; an integer beyond the range of floats
            return None
        if numeric is None or pairs is None or task is None:
            return None
        if not len(task) and self._encoder.of_numbers:
            return torch.from_numpy(numeric)
        found = {"numeric": torch.from_numpy(numeric)}
        if self._encoder.text:
            if not all(plain_category(row[name]) for row in rows for name in self._encoder.text):
                return None
            told = {name: [text(row[name]) for row in rows] for name in self._encoder.text}
            columns = {name: pa.chunked_array([pa.array(values, pa.string())]) for name, values in told.items()}
            found["text"] = self._encoder.texts(columns, "a request")
        if self._encoder.id_columns:
            if not all(plain_category(row[name]) for row in rows for name in self._encoder.id_columns):
                return None
            hashes = self._encoder.id_hashes
            keys = [[id_key(hashed, row[name]) for name, hashed in hashes.items()] for row in rows]
            found["ids"] = torch.tensor(keys, dtype=torch.int64)
        if len(pairs):
            found["categorical"] = torch.from_numpy(pairs)
        if len(task):
            found["task"] = torch.from_numpy(task)
        return found

    def _numeric(self, rows: Sequence[Row]) -> np.ndarray[Any, np.dtype[np.float32]] | None:
        flat: list[float] = []
        for row in rows:
            for name, width in self._numbers:
                value = row[name]
                if width is None:
                    number = plain_number(value)
                    if number is None:
                        return None
                    flat.append(number)
                elif value is None:
                    flat += [math.nan] * width
                elif type(value) is list and len(value) == width and _NUMBERS.issuperset(map(type, value)):
                    flat += value
                else:
                    return None
        whole = np.array(flat, dtype=np.float64).reshape(len(rows), self._width)
        if not self._lists and not self._ids:
            return whole.astype(np.float32)
        with np.errstate(over="ignore"):  # overflow gives infinity
            found = whole.astype(np.float32)
        if np.isinf(found).any() or any(
            _holds_nan(row[name]) for row in rows for name, width in self._numbers if width
        ):
            return None
        return None if self._ids and no_ids(found, self._encoder.places, self._ids) else found

    def _pairs(self, rows: Sequence[Row]) -> np.ndarray[Any, np.dtype[np.int64]] | None:
        buckets = self._encoder.buckets
        flat: list[int] = []
        for row in rows:
            for name, hashed in self._hashes.items():
                value = row[name]
                if not plain_category(value):
                    return None
                both = hashed.of(text(value))
                flat += ((both & 0xFFFFFFFF) % buckets, (both >> 32) % buckets)
        if not self._hashes:
            return _NOTHING
        return np.array(flat, dtype=np.int64).reshape(len(rows), len(self._hashes), 2)

    def _task(self, rows: Sequence[Row]) -> np.ndarray[Any, np.dtype[np.int64]] | None:
        """Return the task of each row; empty if the model does not receive it."""
        encoder = self._encoder
        if encoder.task is None or not (encoder.asks_task or any(encoder.task in row for row in rows)):
            return _NOTHING
        told = [row[encoder.task] for row in rows]
        if not all(type(task) is int and 0 <= task < self._tasks for task in told):
            return None
        return _NOTHING if encoder.tasks is None else np.array(told, dtype=np.int64)


_NOTHING: np.ndarray[Any, np.dtype[np.int64]] = np.zeros(0, dtype=np.int64)


def plain_number(value: object) -> float | None:
    """Return a number as a float, NaN for null; None if it is not supported.

    Example:
        >>> plain_number(True), plain_number(None), plain_number(1e39), plain_number("1")
        (1.0, nan, None, None)
    """
    if type(value) is float:
        return value if -MOST <= value <= MOST else None
    if value is None:
        return math.nan
    return float(value) if (type(value) is int or type(value) is bool) and -EXACT <= value <= EXACT else None


def plain_category(value: object) -> bool:
    """Whether a value is supported as a category; text with an unpaired surrogate is not.

    Example:
        >>> plain_category("AA"), plain_category(None), plain_category([1]), plain_category(chr(0xD800))
        (True, True, False, False)
    """
    if type(value) is str:
        return value.isascii() or _is_unicode(value)
    return value is None or type(value) in _NUMBERS


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _holds_nan(values: Sequence[float] | None) -> bool:
    return values is not None and any(value != value for value in values)
