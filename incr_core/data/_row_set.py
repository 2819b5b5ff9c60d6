"""Sets of rows as sorted intervals of ids: the cost depends on the number of intervals, not of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["RowSet"]

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def _nothing() -> Ints:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class RowSet:
    """Row ids in sorted, disjoint intervals that do not touch. Invariant: stops[i] < starts[i + 1].

    Attributes:
        starts: First ids, (k,).
        stops: Ids after the last, (k,).

    Example:
        >>> few = RowSet.of_ids(np.array([9, 3, 4, 5]))
        >>> few.starts.tolist(), few.stops.tolist(), len(few)
        ([3, 9], [6, 10], 4)
        >>> (few - RowSet.of_ids(np.array([4]))).first(9), (few & RowSet.of_range(5, 99)).first(9)
        ([3, 5, 9], [5, 9])
    """

    starts: Ints = field(default_factory=_nothing)
    stops: Ints = field(default_factory=_nothing)

    @classmethod
    def of_ids(cls, ids: Ints) -> RowSet:
        """Return the set of ids (n,) in any order; a repeated id counts once."""
        values = np.unique(ids)
        first = np.append(True, np.diff(values) != 1)[: len(values)]
        last = np.append(first[1:], True)[: len(values)]
        return cls(values[first], values[last] + 1)

    @classmethod
    def of_range(cls, start: int, stop: int) -> RowSet:
        """Return the set of one interval."""
        return cls.of_intervals(np.array([start], np.int64), np.array([stop], np.int64))

    @classmethod
    def of_intervals(cls, starts: Ints, stops: Ints) -> RowSet:
        """Return the union of any intervals (k,).

        Example:
            >>> RowSet.of_intervals(np.array([4, 0, 2]), np.array([6, 3, 3])).stops
            array([3, 6])
        """
        starts, stops = _sorted(starts, stops)
        if not len(starts):
            return cls()
        reach = np.maximum.accumulate(stops)
        first = np.append(True, starts[1:] > reach[:-1])
        return cls(starts[first], reach[np.append(first[1:], True)])

    @classmethod
    def repeated(cls, starts: Ints, stops: Ints) -> RowSet:
        """Return the ids that at least two of the intervals (k,) contain.

        Example:
            >>> RowSet.repeated(np.array([0, 2, 8]), np.array([9, 3, 12])).first(9)
            [2, 8]
        """
        starts, stops = _sorted(starts, stops)
        reach = np.maximum.accumulate(stops) if len(stops) else stops
        return cls.of_intervals(starts[1:], np.minimum(stops[1:], reach[:-1]))

    def __len__(self) -> int:
        return int(np.sum(self.stops - self.starts))

    def __or__(self, other: RowSet) -> RowSet:
        return RowSet.of_intervals(
            np.concatenate([self.starts, other.starts]), np.concatenate([self.stops, other.stops])
        )

    def __and__(self, other: RowSet) -> RowSet:
        return self._where(other, np.logical_and)

    def __sub__(self, other: RowSet) -> RowSet:
        return self._where(other, lambda mine, theirs: mine & ~theirs)

    def _where(self, other: RowSet, chosen: Callable[[Mask, Mask], Mask]) -> RowSet:
        """Return the intervals between edges that `chosen` selects, given their membership in each set."""
        edges = np.unique(np.concatenate([self.starts, self.stops, other.starts, other.stops]))
        kept = np.flatnonzero(chosen(self._holds(edges[:-1]), other._holds(edges[:-1])))
        return RowSet.of_intervals(edges[kept], edges[kept + 1])

    def _holds(self, ids: Ints) -> Mask:
        """Whether each of the ids (n,) is in the set."""
        begun = np.searchsorted(self.starts, ids, side="right")
        return np.asarray(begun > np.searchsorted(self.stops, ids, side="right"))

    def first(self, count: int) -> list[int]:
        """Return the lowest ids, at most `count`."""
        found: list[int] = []
        for start, stop in zip(self.starts[:count].tolist(), self.stops[:count].tolist(), strict=True):
            found += range(start, min(stop, start + count - len(found)))
        return found


def _sorted(starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """Return the non-empty intervals, sorted by start."""
    full = stops > starts
    starts, stops = starts[full], stops[full]
    order = np.argsort(starts, kind="stable")
    return starts[order], stops[order]
