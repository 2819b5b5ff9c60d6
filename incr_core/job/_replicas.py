"""The number of replicas of a run: fixed, a range, or the log of another run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Replicas"]


@dataclass(frozen=True, slots=True)
class Replicas:
    """The value of `cluster.replicas`.

    least, most: the range of the number. log: pairs of a first increment and a number, as in a run's summary.

    >>> Replicas.of(2), Replicas.of("2..8")
    (Replicas(least=2, most=2, log=()), Replicas(least=2, most=8, log=()))
    >>> log = Replicas.of([[0, 2], [5, 3]])
    >>> log.most, log.at(4), log.at(5)
    (3, 2, 3)
    >>> Replicas.of("8..2")
    Traceback (most recent call last):
    ...
    ValueError: expected a number, a range such as "2..8" that begins with the smaller number, or ..., got '8..2'
    """

    least: int
    most: int
    log: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, told: int | str | Sequence[Sequence[int]]) -> Replicas:
        """From the value of the key."""
        if isinstance(told, int) and not isinstance(told, bool) and told >= 1:
            return cls(told, told)
        if isinstance(told, str) and (found := re.fullmatch(r"\s*(\d+)\s*\.\.\s*(\d+)\s*", told)):
            least, most = int(found[1]), int(found[2])
            if 1 <= least <= most:
                return cls(least, most)
        if isinstance(told, list | tuple) and told and all(len(entry) == 2 for entry in told):
            log = tuple((int(first), int(count)) for first, count in told)
            begins = [first for first, _ in log]
            if begins[0] == 0 and begins == sorted(set(begins)) and all(count >= 1 for _, count in log):
                counts = [count for _, count in log]
                return cls(min(counts), max(counts), log)
        raise ValueError(
            'expected a number, a range such as "2..8" that begins with the smaller number, or a log such as '
            f"[[0, 2], [5, 3]] of first increments and numbers, got {told!r}"
        )

    @property
    def fixed(self) -> bool:
        """Whether there are always as many."""
        return self.least == self.most

    def at(self, increment: int) -> int:
        """The number of replicas that learn an increment, by the log."""
        return [count for first, count in self.log if first <= increment][-1]
