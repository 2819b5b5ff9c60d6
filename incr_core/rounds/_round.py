"""One round, written once for all engines: anchor, learn, merge, outer step, adopt; and consolidating after rounds.

Those who learn together are a `Cohort`, seen from where the arithmetic is done: one process with its participant, a Ray
worker with its exchange, a Flower server with its clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from incr_core.rounds._outer import Outer
from incr_core.rounds._participant import Arrival
from incr_core.update import Update, Weights

__all__ = ["Cohort", "Consolidated", "Round", "consolidate", "take_round", "total_measured"]


@dataclass(slots=True)
class Round:
    """What learning took, in one round or several.

    losses: name -> sum over learned rows of the loss term.
    passes_rows: rows learned, counting a row once per pass.
    """

    losses: dict[str, float] = field(default_factory=dict)
    passes_rows: int = 0
    bytes_exchanged: int = 0
    seconds_learning: float = 0.0
    seconds_exchanging: float = 0.0

    def add(self, updates: Sequence[Update]) -> None:
        """Take in the losses of one exchange."""
        for update in updates:
            self.passes_rows += update.rows
            for name, value in update.losses.items():
                self.losses[name] = self.losses.get(name, 0.0) + value


@dataclass(frozen=True, slots=True)
class Consolidated:
    """What the participants at hand contribute after their strategies have consolidated.

    rows: how many rows each of them learned since it last did; states: what its strategies share; updates: its weights,
    where strategies change them.
    """

    rows: Sequence[int]
    states: Sequence[Mapping[str, Tensor]]
    updates: Sequence[Update]


class Cohort(Protocol):
    """Those who learn together, seen from where the arithmetic is done.

    outer: from a round's anchor and mean to the next anchor. rules: how each weight merges. remakes: whether strategies
    change weights when they consolidate.
    """

    outer: Outer

    @property
    def rules(self) -> Mapping[str, str]:
        """How each of the weights merges."""

    @property
    def remakes(self) -> bool:
        """Whether strategies change weights when they consolidate, so that these are merged once more."""

    def anchor(self) -> Weights:
        """The weights that all stand at; what is learned from now on leaves them as they are, where it matters."""

    def merge(self, updates: Sequence[Update], anchor: Weights) -> tuple[Weights, int]:
        """The mean of everybody's updates, those at hand and others, and how many rows all of them learned."""

    def adopt(self, weights: Weights) -> None:
        """Let all stand at these weights."""

    def consolidate(self) -> Consolidated:
        """Let strategies consolidate, where all stand at the same weights."""

    def merge_shared(self, made: Consolidated) -> None:
        """Merge what strategies share, and let all take it."""


def take_round(cohort: Cohort, learn: Callable[[], Sequence[Update]], done: Round) -> None:
    """Learn, merge, and take the outer step from the anchor.

    learn: gives the updates at hand, one's own or all clients'. done: takes in what they learned. A round in which
    nobody learned a row leaves the weights as they are: an outer step without rows would be momentum alone.
    """
    anchor = cohort.anchor()
    updates = learn()
    done.add(updates)
    merged, rows = cohort.merge(updates, anchor)
    if rows:
        cohort.adopt(cohort.outer.step(anchor, merged, cohort.rules))


def consolidate(cohort: Cohort) -> None:
    """Let strategies consolidate at the round's result, and merge what they share and the weights that they changed."""
    anchor = cohort.anchor() if cohort.remakes else {}
    made = cohort.consolidate()
    cohort.merge_shared(made)
    if cohort.remakes:
        cohort.adopt(cohort.merge(made.updates, anchor)[0])


def total_measured(arrivals: Sequence[Arrival]) -> Weights:
    """The sum of what participants measured, in their order.

    >>> total_measured([])
    {}
    """
    total: Weights = {}
    for arrival in arrivals:
        for name, value in arrival.measured.items():
            total[name] = total[name] + value if name in total else value
    return total
