"""New rows given as dicts of plain values, encoded with their rates as `encode_table` encodes a table of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import torch

from incr_core.batch import Inputs
from incr_core.data.encoding import ColumnHash, Encoder, PlainRows, plain_category, plain_number, text
from incr_core.data.rates import History, Lookup, Questions, Rate, widened
from incr_core.data.times import NEVER, SECOND

__all__ = ["PlainAsked"]

Ints = np.ndarray[Any, np.dtype[np.int64]]
Row = Mapping[str, Any]

_TIME = re.compile(
    r"(?:1[89]|2[0-8])\d\d-\d\d-\d\d([T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?(Z|[+-](0\d|1[0-4]):?[0-5]\d)?)?"
)
_RULED = range(1971, 2037)
"""Years with the same text for a zone's clock changes."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEAR = range(-8_000_000_000, 32_000_000_000)
"""Epoch seconds of the years 1716 to 2984; other times need the slow path."""


class PlainAsked:
    """`PlainRows` with the rates computed from a version's history.

    Args:
        encoder: As in `encode_table`.
        rates: As in `encode_table`.
        history: As in `encode_table`.
        predict_at: As in `encode_table`.
        time_zone: As in `encode_table`.

    Example:
        >>> rates = [Rate(["carrier"], "1h", prior=0.5)]
        >>> encoder = Encoder("late", ["distance"], [], objective="binary", classes=None)
        >>> asked = PlainAsked(encoder, rates, None, predict_at="at")
        >>> asked.inputs([{"distance": 170, "carrier": "AA", "at": "2013-02-01 05:00"}])
        tensor([[170.0000,   0.5000,   0.0000]])
        >>> asked.inputs([{"distance": 170, "carrier": "AA", "at": "soon"}]) is None
        True
    """

    def __init__(
        self,
        encoder: Encoder,
        rates: Sequence[Rate] = (),
        history: pa.Table | None = None,
        *,
        predict_at: str | None = None,
        time_zone: str | None = None,
    ) -> None:
        self._rows = PlainRows(encoder)
        self._known = (History(rates) if history is None else History.from_table(rates, history)).lookup()
        self._lookup = self._known
        self._predict_at = predict_at
        self._zone = None if time_zone is None else ZoneInfo(time_zone)
        keys = {name for rate in rates for name in rate.by}
        self._numbers = keys.intersection(encoder.numeric)
        self._hashes = {name: ColumnHash(name) for name in keys}
        # Columns with two roles need the table's slow path.
        special = {predict_at, encoder.task, *encoder.widths}
        self._never = bool(rates) and (bool(special & keys) or predict_at in encoder.inputs)

    def also_know(self, newer: Lookup) -> None:
        """Compute rates from these outcomes too, besides those of the history."""
        self._lookup = self._known.plus(newer)

    def inputs(self, rows: Sequence[Row]) -> Inputs | None:
        """Return the inputs of a model for at least one row; None if a value needs the slow path."""
        inputs = None if self._never else self._rows.inputs(rows)
        if inputs is None or not self._lookup.rates:
            return inputs
        times, keys = self._times(rows), self._keys(rows)
        if times is None or keys is None:
            return None
        questions = Questions(keys, np.full(keys.shape, np.nan), np.full(keys.shape, NEVER))
        return widened(inputs, torch.from_numpy(self._lookup.features(questions, times)))

    def _keys(self, rows: Sequence[Row]) -> Ints | None:
        """Return one number for each row and series of rates, (S, B), as `Rate.keys` does."""
        hashed: dict[str, np.ndarray[Any, np.dtype[np.uint64]]] = {}
        for name, hashes in self._hashes.items():
            if not all(name in row for row in rows):
                return None
            values = [row[name] for row in rows]
            if name in self._numbers:  # in a column of numbers, true is 1
                values = [int(value) if type(value) is bool else value for value in values]
                if any(plain_number(value) is None for value in values):
                    return None
            elif not all(map(plain_category, values)):
                return None
            hashed[name] = np.array([hashes.of(text(value)) for value in values], dtype=np.uint64)
        return self._lookup.keys(hashed, len(rows))

    def _times(self, rows: Sequence[Row]) -> Ints | None:
        """Return the microseconds at which rows are to be predicted, (B,)."""
        assert self._predict_at is not None
        told: list[Any] = [row.get(self._predict_at) for row in rows]
        kinds = set(map(type, told))
        found: list[int | None]
        if kinds == {int}:
            found = [value * SECOND if value in _NEAR else None for value in told]
        elif kinds == {float}:
            near = _NEAR.start, _NEAR.stop
            found = [round(value * float(SECOND)) if near[0] <= value < near[1] else None for value in told]
        elif kinds == {str}:
            read = [self._read(value) for value in told]
            if len({zoned for _, zoned in read}) > 1:
                return None
            found = [micros for micros, _ in read]
        else:
            return None
        return None if None in found else np.array(found, dtype=np.int64)

    def _read(self, told: str) -> tuple[int | None, bool]:
        """Return the microseconds of ISO text, and whether it has a zone."""
        try:
            moment = datetime.fromisoformat(told) if _TIME.fullmatch(told) else None
        except ValueError:  # an impossible date
            moment = None
        if moment is None:
            return None, False
        zoned = moment.tzinfo is not None
        if not zoned:
            moment = moment.replace(tzinfo=self._zone or UTC)
            if self._zone is not None and not (
                moment.year in _RULED and moment.astimezone(UTC).astimezone(self._zone) == moment
            ):
                return None, False  # in an hour skipped when clocks were set forward
        return (moment - _EPOCH) // timedelta(microseconds=1), zoned
