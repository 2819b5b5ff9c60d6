"""When replicas exchange within an increment: after so many steps, rows or seconds.

What a job says is an `Interval`; what it comes to in one increment is a `Pace`, which all its replicas keep.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, Self

from incr_core.batch import Limit
from incr_core.data.times import SECOND, duration
from incr_core.errors import ArgumentError

__all__ = ["AsRecorded", "ByTime", "EverySteps", "Interval", "Pace"]


class Pace(Protocol):
    """How far each replica learns before an exchange; the same for all of them.

    rounds: how many there are in the increment; None: until nobody has rows left.
    records: whether the steps that were taken are kept with the metrics, since nothing else tells them.
    """

    @property
    def rounds(self) -> int | None:
        """How many there are in the increment; None: until nobody has rows left."""

    @property
    def records(self) -> bool:
        """Whether the steps that were taken are kept with the metrics, since nothing else tells them."""

    def limit(self, number: int, replica: int) -> Limit:
        """How far a replica goes in a round that begins now."""


@dataclass(frozen=True, slots=True)
class EverySteps:
    """So many rounds of so many optimiser steps each (None: all there are).

    >>> EverySteps(rounds=3, steps=4).limit(0, replica=1)
    4
    """

    rounds: int = 1
    steps: int | None = None
    records: ClassVar[bool] = False

    def limit(self, number: int, replica: int) -> Limit:
        """The same everywhere."""
        return self.steps


@dataclass(frozen=True, slots=True)
class ByTime:
    """A round lasts so many seconds, in which each takes the steps it manages: one at least, while it has rows."""

    seconds: float
    rounds: ClassVar[None] = None
    records: ClassVar[bool] = True

    def limit(self, number: int, replica: int) -> Limit:
        """Until the seconds are over."""
        end = time.monotonic() + self.seconds
        return lambda: time.monotonic() >= end


@dataclass(frozen=True, slots=True)
class AsRecorded:
    """The steps of an increment learned by time, taken once more.

    steps: of each replica, in each round; the column `steps` of the metrics.

    >>> again = AsRecorded([[3, 0], [2, 1]])
    >>> again.rounds, again.limit(0, replica=0), again.limit(1, replica=1)
    (2, 3, 1)
    """

    steps: Sequence[Sequence[int]]
    records: ClassVar[bool] = True

    @property
    def rounds(self) -> int:
        """As many as there were."""
        return len(self.steps[0])

    def limit(self, number: int, replica: int) -> Limit:
        """What this replica took in that round."""
        return self.steps[replica][number]


@dataclass(frozen=True, slots=True)
class Interval:
    """What lies between two exchanges: optimiser steps of a replica, rows of all replicas together, or seconds.

    >>> Interval.of(8), Interval.of("1000 rows").unit, Interval.of("2s").amount
    (Interval(amount=8, unit='steps'), 'rows', 2)
    >>> Interval.of("soon")
    Traceback (most recent call last):
    ...
    incr_core.errors.ArgumentError: expected a number of steps, a number of rows such as "1000 rows", or a duration such
    as "5s", got 'soon'
    """

    amount: int
    unit: Literal["steps", "rows", "seconds"]

    @classmethod
    def of(cls, told: int | str) -> Self:
        """What a job says: a number of steps, a number of rows as "1000 rows", or a duration."""
        if isinstance(told, int):
            return cls(told, "steps")
        if (rows := re.fullmatch(r"\s*(\d+)\s*rows?\s*", told)) and int(rows[1]):
            return cls(int(rows[1]), "rows")
        try:
            return cls(duration(told) // SECOND, "seconds")
        except ArgumentError:
            raise ArgumentError(
                'expected a number of steps, a number of rows such as "1000 rows", or a duration such as "5s", '
                f"got {told!r}"
            ) from None

    def pace(self, steps: Sequence[int], rows_a_step: int) -> Pace:
        """What it comes to in an increment.

        steps: how many each replica has to take. rows_a_step: new rows of a full step.

        A number of rows is one of whole steps, of which each replica takes as many: no more rows than that, but for one
        step at least. Who has no peers learns all in one round.

        >>> Interval.of(2).pace([5, 4], rows_a_step=16)
        EverySteps(rounds=3, steps=2)
        >>> Interval.of("100 rows").pace([5, 4], rows_a_step=16)
        EverySteps(rounds=2, steps=3)
        """
        if len(steps) == 1 or self.amount == 0:
            return EverySteps()
        if self.unit == "seconds":
            return ByTime(self.amount)
        every = self.amount if self.unit == "steps" else max(1, self.amount // (len(steps) * rows_a_step))
        return EverySteps(-(-max(steps) // every), every)
