"""Rates: features from known labels, such as the share of late flights of this carrier in the last hours.

For a row predicted at time p, over the rows with the same key whose outcome became known in [p - window, p):

    rate = (sum of outcomes + weight * prior) / (count + weight)        and        log(1 + count)

The interval is open at p: an outcome that becomes known at the moment of a prediction is excluded. The outcome is the
label, another column known with the label, or a column whose time is given by a further column: a flight's delay at
departure is known hours before its delay at arrival.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from incr_core.data.encoding import ColumnHash
from incr_core.data.times import NEVER, SECOND, duration, instants
from incr_core.errors import ArgumentError

__all__ = ["Questions", "Rate", "combined", "series"]

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Rate:
    """The rate of an outcome among the rows that share the `by` columns, over the last `window`.

    Args:
        by: Key columns; empty for one overall rate. A null is a key like any other.
        window: Seconds, or a duration such as "6h"; None for all of the past.
        prior: Expected rate of a key without rows; None takes the overall rate over the same window (0 before any).
        weight: Number of rows that the prior counts as.
        outcome: A numeric column; None for the label itself.
        known_at: Column with the time when the outcome is known; None if it is known with the label. It requires an
            outcome.

    Example:
        >>> Rate(["carrier"], "6h").names
        ['rate of label by carrier in 6h', 'count by carrier in 6h']
    """

    by: Sequence[str]
    window: float | str | None
    prior: float | None = None
    weight: float = 10.0
    outcome: str | None = None
    known_at: str | None = None
    _hashes: tuple[ColumnHash, ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        if isinstance(self.window, str):
            object.__setattr__(self, "window", duration(self.window, "features.rate.window") / SECOND)
        if self.window_us is not None and self.window_us <= 0:
            raise ArgumentError(f"features.rate.window: expected a duration above 0, got {self.window}")
        if self.weight <= 0:
            raise ArgumentError(f"features.rate.weight: expected a number above 0, got {self.weight}")
        if self.known_at is not None and self.outcome is None:
            raise ArgumentError(
                f'features.rate.known_at: expected an outcome too, got known_at = "{self.known_at}" alone; '
                "when the label is known, label_at says"
            )
        object.__setattr__(self, "by", tuple(self.by))
        object.__setattr__(self, "_hashes", tuple(ColumnHash(name) for name in self.by))

    @property
    def names(self) -> list[str]:
        """Names of the two features."""
        key = f" by {', '.join(self.by)}" if self.by else ""
        window = "" if self.window_us is None else f" in {self.window_us / SECOND / 3600:g}h"
        return [f"rate of {self.outcome or 'label'}{key}{window}", f"count{key}{window}"]

    @property
    def columns(self) -> list[str]:
        """Columns that this rate reads, besides the label."""
        return [*self.by, *(name for name in (self.outcome, self.known_at) if name)]

    @property
    def window_us(self) -> int | None:
        """The window in microseconds; None for all of the past."""
        return None if self.window is None else round(float(self.window) * SECOND)

    def keys(self, table: pa.Table, count: int) -> Ints:
        """Return one number for each of the table's `count` rows, equal if the key columns are, (B,) int64."""
        columns = (hashes(table[name]) for name, hashes in zip(self.by, self._hashes, strict=True))
        return combined(columns, count).view(np.int64)


def combined(columns: Iterable[Any], count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return one number for each of `count` rows from the hashes (B,) of their key columns, in order.

    Example:
        >>> combined([np.array([1], dtype=np.uint64)], 1)
        array([1], dtype=uint64)
    """
    keys = np.zeros(count, dtype=np.uint64)
    for hashes in columns:
        # Multiplication by an odd constant distinguishes (a, b) from (b, a).
        keys = keys * np.uint64(0x9E3779B97F4A7C15) + hashes
    return keys


def series(rates: Sequence[Rate]) -> list[list[int]]:
    """Return the numbers of rates that share their outcomes: those of the same outcome by the same keys.

    Example:
        >>> series([Rate(["origin"], "1h"), Rate([], "1h"), Rate(["origin"], "6h")])
        [[0, 2], [1]]
    """
    found: dict[Any, list[int]] = {}
    for index, rate in enumerate(rates):
        found.setdefault((tuple(rate.by), rate.outcome, rate.known_at), []).append(index)
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Questions:
    """The data of B rows that rates need, for each of S series of rates with the same keys and outcome.

    Attributes:
        keys: The keys, (S, B) int64.
        outcomes: The rows' outcomes, (S, B) float64, NaN if there is none.
        known: The times when they are known, (S, B), microseconds.
    """

    keys: Ints
    outcomes: np.ndarray[Any, np.dtype[np.float64]]
    known: Ints

    @classmethod
    def of(cls, rates: Sequence[Rate], table: pa.Table) -> Questions:
        """Return the data of rows with unknown outcomes: only their keys are read.

        Example:
            >>> Questions.of([Rate([], "1h", outcome="delay")], pa.table({"x": [1]})).outcomes
            array([[nan]])
        """
        keys = np.array([rates[members[0]].keys(table, len(table)) for members in series(rates)], dtype=np.int64)
        keys = keys.reshape(len(series(rates)), len(table))
        return cls(keys, np.full(keys.shape, np.nan), np.full(keys.shape, NEVER))

    @classmethod
    def answered(
        cls, rates: Sequence[Rate], table: pa.Table, labels: np.ndarray[Any, Any], known: Ints, times: Ints
    ) -> Questions:
        """Return the data of rows with labels. No outcome is known before its row arrives.

        Args:
            rates: The rates.
            table: The rows.
            labels: Labels, (B,).
            known: Times when the labels are known, (B,), microseconds.
            times: Times when the rows arrive, (B,).

        Example:
            >>> hour = np.array([3600 * SECOND])
            >>> table = pa.table({"delay": [9.0], "left": [7200]})
            >>> rates = [Rate([], "1h"), Rate([], "1h", outcome="delay", known_at="left")]
            >>> Questions.answered(rates, table, np.array([1.0]), 9 * hour, hour).known // hour
            array([[9],
                   [2]])
        """
        questions = cls.of(rates, table)
        for index, members in enumerate(series(rates)):
            rate = rates[members[0]]
            questions.outcomes[index] = labels if rate.outcome is None else _column(table, rate.outcome)
            if rate.known_at is None:
                questions.known[index] = known
            else:
                read = instants(table[rate.known_at], f"features.rate.known_at.{rate.known_at}")
                questions.known[index] = np.where(read.known, np.maximum(read.values, times), NEVER)
        return questions

    @property
    def last_known(self) -> int:
        """The latest time at which an outcome becomes known."""
        return int(self.known.max(initial=-NEVER, where=self.known < NEVER))

    @classmethod
    def joined(cls, chunks: Sequence[Questions]) -> Questions:
        """Concatenate the data of some chunks, in order."""
        return cls(
            np.concatenate([chunk.keys for chunk in chunks], axis=1),
            np.concatenate([chunk.outcomes for chunk in chunks], axis=1),
            np.concatenate([chunk.known for chunk in chunks], axis=1),
        )

    def without(self, spans: Sequence[Sequence[int]]) -> Questions:
        """Return the data with outcomes that become known within these spans, [start, stop) in microseconds, never
        known.

        Example:
            >>> one = Questions(np.zeros((1, 3)), np.ones((1, 3)), np.array([[1, 2, 3]]))
            >>> one.without([[2, 3]]).known == NEVER
            array([[False,  True, False]])
        """
        known = self.known
        for start, stop in spans:
            known = np.where((known >= start) & (known < stop), NEVER, known)
        return Questions(self.keys, self.outcomes, known)

    def take(self, index: Any) -> Questions:
        """Return the data of the rows at `index`, numbers or a mask."""
        return Questions(self.keys[:, index], self.outcomes[:, index], self.known[:, index])


def _column(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    """Return an outcome column as floats, with NaN for null."""
    column = table[name]
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ArgumentError(f"features.rate.outcome: expected a column of numbers, got {name} of {kind}; name another")
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy())
