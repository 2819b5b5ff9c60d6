"""Rates: features made of labels already known, such as the share of late flights of this carrier in the last hours.

For a row predicted at time p, over the rows with the same key whose outcome became known in [p - window, p):

    rate = (sum of outcomes + weight * prior) / (count + weight)        and        log(1 + count)

The interval is open at p: what becomes known at the very moment of a prediction does not enter it. The outcome is the
label, or a column that is known with it, or one that says itself when it was known: a flight's delay at departure is
known hours before its delay at arrival.

Sums are exact. Outcomes are held as integers of 2**-32, so a sum does not depend on where the summing began, and a
stream that resumes from the middle computes the same features, bit for bit, as one that began at the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from incr_core.clock import NEVER, SECOND, duration, instants
from incr_core.errors import JobError
from incr_core.hashing import ColumnHash

__all__ = ["History", "Questions", "Rate"]

Ints = np.ndarray[Any, np.dtype[np.int64]]
_ALWAYS = np.iinfo(np.int64).min  # known before every time
_FIELDS = ("key", "known", "whole", "part", "count")


@dataclass(frozen=True)
class Rate:
    """The rate of an outcome among the rows that share the `by` columns, over the last `window`.

    by: key columns, none for one overall rate. A null is a key like any other.
    window: seconds or a duration such as "6h", or None for all of the past.
    prior: the rate to expect of a key without rows; None takes the overall rate over the same window (0 before any).
    weight: how many rows the prior counts as.
    outcome: a numeric column; None for the label itself.
    known_at: the column that says when the outcome is known; None for when the label is. It needs an outcome.

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
        if self.span is not None and self.span <= 0:
            raise JobError(f"features.rate.window: expected a duration above 0, got {self.window}")
        if self.weight <= 0:
            raise JobError(f"features.rate.weight: expected a number above 0, got {self.weight}")
        if self.known_at is not None and self.outcome is None:
            raise JobError(
                f'features.rate.known_at: expected an outcome too, got known_at = "{self.known_at}" alone; '
                "when the label is known, label_at says"
            )
        object.__setattr__(self, "by", tuple(self.by))
        object.__setattr__(self, "_hashes", tuple(ColumnHash(name) for name in self.by))

    @property
    def names(self) -> list[str]:
        """What the two features are called."""
        key = f" by {', '.join(self.by)}" if self.by else ""
        span = "" if self.span is None else f" in {self.span / SECOND / 3600:g}h"
        return [f"rate of {self.outcome or 'label'}{key}{span}", f"count{key}{span}"]

    @property
    def columns(self) -> list[str]:
        """The columns this rate reads, beside the label."""
        return [*self.by, *(name for name in (self.outcome, self.known_at) if name)]

    @property
    def span(self) -> int | None:
        """The window in microseconds."""
        return None if self.window is None else round(float(self.window) * SECOND)

    def keys(self, table: pa.Table, count: int) -> Ints:
        """One number for each of the table's `count` rows, equal where the key columns are, (B,) int64."""
        keys = np.zeros(count, dtype=np.uint64)
        for name, hashes in zip(self.by, self._hashes, strict=True):
            # Multiply by an odd constant before adding, or (a, b) and (b, a) would be one key.
            keys = keys * np.uint64(0x9E3779B97F4A7C15) + hashes(table[name])
        return keys.view(np.int64)


@dataclass(frozen=True, slots=True)
class _Outcomes:
    """Known outcomes: their keys, when they became known, their sums as whole and 2**-32 parts, and counts."""

    key: Ints
    known: Ints
    whole: Ints
    part: Ints
    count: Ints

    @classmethod
    def of(cls, keys: Ints, known: Ints, outcomes: np.ndarray[Any, Any]) -> _Outcomes:
        valid = np.isfinite(outcomes) & (known < NEVER)
        outcomes = outcomes[valid].astype(np.float64)
        whole = np.floor(outcomes)
        part = np.rint((outcomes - whole) * 2.0**32)
        ones = np.ones(len(outcomes), dtype=np.int64)
        return cls(keys[valid], known[valid], whole.astype(np.int64), part.astype(np.int64), ones)

    def where(self, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> _Outcomes:
        if mask.all():
            return self
        return _Outcomes(*(getattr(self, name)[mask] for name in _FIELDS))

    def plus(self, other: _Outcomes) -> _Outcomes:
        return _Outcomes(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in _FIELDS))

    def folded(self, time: int) -> _Outcomes:
        """The same, with all that was known before `time` added up to one entry a key."""
        old = self.known < time
        keys, inverse = np.unique(self.key[old], return_inverse=True)
        sums = []
        for values in (self.whole, self.part, self.count):
            total = np.zeros(len(keys), dtype=np.int64)
            np.add.at(total, inverse, values[old])
            sums.append(total)
        return _Outcomes(keys, np.full(len(keys), _ALWAYS), *sums).plus(self.where(~old))

    def index(self) -> _Index:
        """The outcomes in an order in which sums over a key and a span of time are two searches."""
        order = np.lexsort((self.known, self.key))
        key = self.key[order]
        first = np.ones(len(key), dtype=bool)
        first[1:] = key[1:] != key[:-1]
        # Times are replaced by how many entries are known before them, so that (key, time) fits one integer.
        times = np.sort(self.known)
        position = (np.cumsum(first) - 1) * (len(times) + 1) + np.searchsorted(times, self.known[order])

        def running(values: Ints) -> Ints:
            return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(values[order])])

        return _Index(key[first], times, position, running(self.whole), running(self.part), running(self.count))


@dataclass(frozen=True, slots=True)
class _Index:
    """Outcomes sorted by key and time, with running sums."""

    distinct: Ints
    times: Ints
    position: Ints
    whole: Ints
    part: Ints
    count: Ints

    def places(self, keys: Ints) -> tuple[Ints, np.ndarray[Any, np.dtype[np.bool_]]]:
        """Where each key begins among the positions, and whether it is there at all."""
        found = np.searchsorted(self.distinct, keys)
        present = np.zeros(len(keys), dtype=bool)
        inside = found < len(self.distinct)
        present[inside] = self.distinct[found[inside]] == keys[inside]
        return found * (len(self.times) + 1), present

    def before(self, places: Ints, moments: Ints | None) -> Ints:
        """How many entries come before each key's moment (None: before its first)."""
        rank: Any = 0 if moments is None else np.searchsorted(self.times, moments)
        return np.asarray(np.searchsorted(self.position, places + rank))

    def sums(self, low: Ints, high: Ints, present: Any) -> tuple[Any, Any]:
        """Sum and count of the entries from `low` up to `high`, float64 and int64."""

        def total(running: Ints) -> Ints:
            return np.where(present, running[high] - running[low], 0)

        return total(self.whole) + total(self.part) / 2.0**32, total(self.count)


def _series(rates: Sequence[Rate]) -> list[list[int]]:
    """Rates of the same outcome by the same keys differ in their windows only: one history serves them."""
    found: dict[Any, list[int]] = {}
    for index, rate in enumerate(rates):
        found.setdefault((tuple(rate.by), rate.outcome, rate.known_at), []).append(index)
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Questions:
    """What rates need of B rows, for each of S series of rates with the same keys and outcome: the keys (S, B) int64,
    the rows' own outcomes (S, B) float64, NaN where there is none, and the microseconds (S, B) when they are known.
    """

    keys: Ints
    outcomes: np.ndarray[Any, np.dtype[np.float64]]
    known: Ints

    @classmethod
    def of(cls, rates: Sequence[Rate], table: pa.Table) -> Questions:
        """Of rows whose outcomes nobody knows: only their keys are read.

        >>> Questions.of([Rate([], "1h", outcome="delay")], pa.table({"x": [1]})).outcomes
        array([[nan]])
        """
        keys = np.array([rates[members[0]].keys(table, len(table)) for members in _series(rates)], dtype=np.int64)
        keys = keys.reshape(len(_series(rates)), len(table))
        return cls(keys, np.full(keys.shape, np.nan), np.full(keys.shape, NEVER))

    @classmethod
    def answered(
        cls, rates: Sequence[Rate], table: pa.Table, labels: np.ndarray[Any, Any], known: Ints, times: Ints
    ) -> Questions:
        """Of rows with labels (B,), known at `known` (B,) microseconds, that arrived at `times` (B,).

        No outcome is known before its row arrives.

        >>> hour = np.array([3600 * SECOND])
        >>> table = pa.table({"delay": [9.0], "left": [7200]})
        >>> rates = [Rate([], "1h"), Rate([], "1h", outcome="delay", known_at="left")]
        >>> Questions.answered(rates, table, np.array([1.0]), 9 * hour, hour).known // hour
        array([[9],
               [2]])
        """
        questions = cls.of(rates, table)
        for index, members in enumerate(_series(rates)):
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
    def joined(cls, parts: Sequence[Questions]) -> Questions:
        """Those of all rows of some parts, in order."""
        return cls(
            np.concatenate([part.keys for part in parts], axis=1),
            np.concatenate([part.outcomes for part in parts], axis=1),
            np.concatenate([part.known for part in parts], axis=1),
        )

    def take(self, index: Any) -> Questions:
        """Those of the rows at `index`, numbers or a mask."""
        return Questions(self.keys[:, index], self.outcomes[:, index], self.known[:, index])


class History:
    """What is known of past outcomes, for each of some rates; never changed, only replaced.

    >>> rates = [Rate(["carrier"], 60, prior=0.5, weight=1)]
    >>> known = np.array([5, 8]) * SECOND
    >>> past = Questions.answered(rates, pa.table({"carrier": ["AA", "AA"]}), np.array([1.0, 0.0]), known, known)
    >>> history = History(rates).plus(past)
    >>> now = Questions.of(rates, pa.table({"carrier": ["AA", "UA"]}))
    >>> history.features(now, np.array([8, 8]) * SECOND).round(2)
    array([[0.75, 0.69],
           [0.5 , 0.  ]], dtype=float32)
    """

    def __init__(self, rates: Sequence[Rate], outcomes: Sequence[_Outcomes] | None = None) -> None:
        nothing = np.zeros(0, dtype=np.int64)
        self.rates = tuple(rates)
        self._series = _series(rates)
        self._outcomes = tuple(outcomes or (_Outcomes.of(nothing, nothing, nothing) for _ in self._series))

    def plus(self, rows: Questions) -> History:
        """The history with the outcomes of these rows too; each counts from when it is known."""
        return History(
            self.rates,
            [
                past.plus(_Outcomes.of(keys, known, outcomes))
                for past, keys, known, outcomes in zip(
                    self._outcomes, rows.keys, rows.known, rows.outcomes, strict=True
                )
            ],
        )

    def since(self, time: int) -> History:
        """The history with only what rows predicted at `time` or later can ask for."""
        kept = []
        for members, past in zip(self._series, self._outcomes, strict=True):
            spans = [span for index in members if (span := self.rates[index].span) is not None]
            endless = len(spans) < len(members)
            oldest = time - max(spans, default=0)
            kept.append(past.folded(oldest) if endless else past.where(past.known >= oldest))
        return History(self.rates, kept)

    def before(self, time: int) -> History:
        """The history with only what was known before `time`."""
        return History(self.rates, [past.where(past.known < time) for past in self._outcomes])

    def features(self, rows: Questions, times: Ints) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Rate and log count of each rate, for rows predicted at `times` (B,): (B, 2 * rates) float32."""
        features = np.zeros((len(times), 2 * len(self.rates)), dtype=np.float32)
        for members, keys, past in zip(self._series, rows.keys, self._outcomes, strict=True):
            index = past.index()
            places, present = index.places(keys)
            stops = index.before(places, times)
            overall = None
            for member in members:
                rate = self.rates[member]
                starts = None if rate.span is None else times - rate.span
                total, count = index.sums(index.before(places, starts), stops, present)
                prior: Any = rate.prior
                if prior is None:
                    overall = overall or replace(past, key=np.zeros_like(past.key)).index()
                    nowhere = np.zeros_like(times)
                    span = overall.before(nowhere, starts), overall.before(nowhere, times)
                    all_total, all_count = overall.sums(*span, True)
                    prior = all_total / np.maximum(all_count, 1)
                features[:, 2 * member] = (total + rate.weight * prior) / (count + rate.weight)
                features[:, 2 * member + 1] = np.log1p(count)
        return features

    def table(self) -> pa.Table:
        """The history as a table, to be saved with a version: a row per known outcome, not more than the windows hold.

        >>> History([]).table().column_names
        ['series', 'key', 'known', 'whole', 'part', 'count']
        """
        series = [np.full(len(past.key), index) for index, past in enumerate(self._outcomes)]
        columns = {"series": np.concatenate([np.zeros(0, dtype=np.int64), *series]).astype(np.int16)}
        for name in _FIELDS:
            parts = [getattr(past, name) for past in self._outcomes]
            columns[name] = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
        return pa.table(columns)

    @classmethod
    def from_table(cls, rates: Sequence[Rate], table: pa.Table) -> History:
        """The history that `table` was written from.

        >>> len(History.from_table([Rate([], 60)], History([Rate([], 60)]).table()).table())
        0
        """
        which = table["series"].to_numpy()
        columns = [table[name].to_numpy() for name in _FIELDS]
        return cls(
            rates, [_Outcomes(*(column[which == index] for column in columns)) for index in range(len(_series(rates)))]
        )


def _column(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    """An outcome column as floats, NaN where it is null."""
    column = table[name]
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise JobError(f"features.rate.outcome: expected a column of numbers, got {name} of {kind}; name another")
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy())
