"""Timing of exchanges within an increment: after a number of steps, rows or seconds.

A job specifies an `Interval`. For each increment it is converted to a `Pace`, which all replicas follow.
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
    """Limits on learning before an exchange, the same for all replicas.

    Attributes:
        rounds: Number of rounds in the increment; None continues until no replica has rows left.
        records: Whether the steps taken are recorded with the metrics, because nothing else determines them.
    """

    @property
    def rounds(self) -> int | None:
        """Number of rounds in the increment; None continues until no replica has rows left."""

    @property
    def records(self) -> bool:
        """Whether the steps taken are recorded with the metrics, because nothing else determines them."""

    def limit(self, number: int, replica: int) -> Limit:
        """Return the limit of a replica in a round that begins now."""


@dataclass(frozen=True, slots=True)
class EverySteps:
    """A fixed number of rounds and of optimiser steps per round (None: all available).

    Example:
        >>> EverySteps(rounds=3, steps=4).limit(0, replica=1)
        4
    """

    rounds: int = 1
    steps: int | None = None
    records: ClassVar[bool] = False

    def limit(self, number: int, replica: int) -> Limit:
        """Return the same limit for every replica."""
        return self.steps


@dataclass(frozen=True, slots=True)
class ByTime:
    """Rounds of a fixed duration, in which each replica takes as many steps as it can, but at least one."""

    seconds: float
    rounds: ClassVar[None] = None
    records: ClassVar[bool] = True

    def limit(self, number: int, replica: int) -> Limit:
        """Return a limit that stops after the duration."""
        end = time.monotonic() + self.seconds
        return lambda: time.monotonic() >= end


@dataclass(frozen=True, slots=True)
class AsRecorded:
    """Replay of the steps of an increment that was learned by time.

    Args:
        steps: Steps of each replica in each round; the column `steps` of the metrics.

    Example:
        >>> again = AsRecorded([[3, 0], [2, 1]])
        >>> again.rounds, again.limit(0, replica=0), again.limit(1, replica=1)
        (2, 3, 1)
    """

    steps: Sequence[Sequence[int]]
    records: ClassVar[bool] = True

    @property
    def rounds(self) -> int:
        """Number of recorded rounds."""
        return len(self.steps[0])

    def limit(self, number: int, replica: int) -> Limit:
        """Return the recorded number of steps."""
        return self.steps[replica][number]


@dataclass(frozen=True, slots=True)
class Interval:
    """The interval between two exchanges: optimiser steps of a replica, rows of all replicas together, or seconds.

    Example:
        >>> Interval.of(8), Interval.of("1000 rows").unit, Interval.of("2s").amount
        (Interval(amount=8, unit='steps'), 'rows', 2)
        >>> Interval.of("soon")
        Traceback (most recent call last):
        ...
        incr_core.errors.ArgumentError: expected a number of steps, a number of rows such as "1000 rows", or a
        duration such as "5s", got 'soon'
    """

    amount: int
    unit: Literal["steps", "rows", "seconds"]

    @classmethod
    def of(cls, told: int | str) -> Self:
        """Parse the value of a job: a number of steps, a number of rows such as "1000 rows", or a duration."""
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
        """Return the pace in an increment.

        A number of rows is converted to whole steps, the same for each replica: at most that many rows, but at least
        one step. Without peers all rows are learned in one round.

        Args:
            steps: Number of steps that each replica has to take.
            rows_a_step: New rows in a full step.

        Example:
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
