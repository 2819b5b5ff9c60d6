"""Known outcomes, and their sums over a key and an interval of time.

Sums are exact: outcomes are stored in fixed point, as integers of 2**-32, so a sum does not depend on where summation
began. A stream that resumes in the middle computes the same features, bit for bit, as one without interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from incr_core.data.times import NEVER

__all__ = ["FIELDS", "Index", "Outcomes", "summed"]

Ints = np.ndarray[Any, np.dtype[np.int64]]
ALWAYS = np.iinfo(np.int64).min
"""Earlier than every time."""

FIELDS = ("key", "known", "whole", "part", "count")
"""The columns of outcomes, in order."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Known outcomes: keys, times, sums as integers and 2**-32 parts, and counts.

    Example:
        >>> past = Outcomes.of(np.array([7, 7, 8]), np.array([1, 2, 3]), np.array([0.5, 1.0, 1.0]))
        >>> index = past.index()
        >>> places, present = index.places(np.array([7]))
        >>> summed([index.sums(index.before(places, None), index.before(places, np.array([2])), present)])  # before 2
        (array([0.5]), array([1]))
    """

    key: Ints
    known: Ints
    whole: Ints
    part: Ints
    count: Ints

    def __len__(self) -> int:
        return len(self.key)

    @classmethod
    def of(cls, keys: Ints, known: Ints, outcomes: np.ndarray[Any, Any]) -> Outcomes:
        """Return the outcomes of some rows, (B,) each, without NaN and without those that will never be known."""
        valid = np.isfinite(outcomes) & (known < NEVER)
        outcomes = outcomes[valid].astype(np.float64)
        whole = np.floor(outcomes)
        part = np.rint((outcomes - whole) * 2.0**32)
        ones = np.ones(len(outcomes), dtype=np.int64)
        return cls(keys[valid], known[valid], whole.astype(np.int64), part.astype(np.int64), ones)

    def where(self, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> Outcomes:
        """Return the outcomes that the mask selects."""
        if mask.all():
            return self
        return Outcomes(*(getattr(self, name)[mask] for name in FIELDS))

    def plus(self, other: Outcomes) -> Outcomes:
        """Return the union with other outcomes."""
        return Outcomes(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in FIELDS))

    def folded(self, time: int) -> Outcomes:
        """Return the outcomes with all that were known before `time` summed to one entry per key."""
        old = self.known < time
        keys, inverse = np.unique(self.key[old], return_inverse=True)
        sums = []
        for values in (self.whole, self.part, self.count):
            total = np.zeros(len(keys), dtype=np.int64)
            np.add.at(total, inverse, values[old])
            sums.append(total)
        return Outcomes(keys, np.full(len(keys), ALWAYS), *sums).plus(self.where(~old))

    def index(self) -> Index:
        """Sort the outcomes so that a sum over a key and an interval of time takes two binary searches."""
        order = np.lexsort((self.known, self.key))
        key = self.key[order]
        first = np.ones(len(key), dtype=bool)
        first[1:] = key[1:] != key[:-1]
        # Invariant: `position` is ascending and equals (key rank) * (number of times + 1) + (number of entries known
        # earlier), so that (key, time) is one integer.
        times = np.sort(self.known)
        position = (np.cumsum(first) - 1) * (len(times) + 1) + np.searchsorted(times, self.known[order])

        def running(values: Ints) -> Ints:
            return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(values[order])])

        return Index(key[first], times, position, running(self.whole), running(self.part), running(self.count))


@dataclass(frozen=True, slots=True)
class Index:
    """Outcomes sorted by key and time, with running sums."""

    distinct: Ints
    times: Ints
    position: Ints
    whole: Ints
    part: Ints
    count: Ints

    def places(self, keys: Ints) -> tuple[Ints, np.ndarray[Any, np.dtype[np.bool_]]]:
        """Return where each key begins among the positions, and whether it occurs."""
        found = np.searchsorted(self.distinct, keys)
        present = np.zeros(len(keys), dtype=bool)
        inside = found < len(self.distinct)
        present[inside] = self.distinct[found[inside]] == keys[inside]
        return found * (len(self.times) + 1), present

    def before(self, places: Ints, moments: Ints | None) -> Ints:
        """Return how many entries precede each key's moment (None: the first entry of the key)."""
        rank: Any = 0 if moments is None else np.searchsorted(self.times, moments)
        return np.asarray(np.searchsorted(self.position, places + rank))

    def sums(self, low: Ints, high: Ints, present: Any) -> tuple[Any, Any, Any]:
        """Return integer and fractional parts of the sums of entries `low` to `high`, and their count; int64."""

        def total(running: Ints) -> Ints:
            return np.where(present, running[high] - running[low], 0)

        return total(self.whole), total(self.part), total(self.count)


def summed(several: Sequence[tuple[Any, Any, Any]]) -> tuple[Any, Any]:
    """Return sum and count, float64 and int64, of entries whose `sums` come from several indices.

    Example:
        >>> summed([(1, 2**31, 1), (2, 2**31, 3)])
        (4.0, 4)
    """
    whole, part, count = several[0]
    for one in several[1:]:
        whole, part, count = whole + one[0], part + one[1], count + one[2]
    return whole + part / 2.0**32, count
