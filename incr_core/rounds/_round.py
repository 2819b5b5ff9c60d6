"""One round, written once for all engines: anchor, learn, merge, outer step, adopt; and consolidation after rounds.

The participants of a round are a `Cohort`, seen from where the arithmetic is done: the one participant of a process, a
Ray worker with its exchange, a Flower server with its clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from incr_core.rounds._contributions import Contributions
from incr_core.rounds._outer import Outer
from incr_core.update import Update, Weights

__all__ = ["Cohort", "Consolidated", "Round", "consolidate", "joined_rounds", "take_round"]


@dataclass(slots=True)
class Round:
    """The losses and costs of learning, in one round or several.

    losses: name -> sum of the loss term over learned rows.
    passes_rows: rows learned, counting a row once per pass.
    seconds_hidden: of exchanges, while learning went on.
    steps: optimiser steps taken, of each participant in each round, where only the clock told how many (`ByTime`).
    contributions: what each participant contributed, where a server sees it; None elsewhere.
    """

    losses: dict[str, float] = field(default_factory=dict)
    passes_rows: int = 0
    bytes_exchanged: int = 0
    seconds_learning: float = 0.0
    seconds_exchanging: float = 0.0
    seconds_hidden: float = 0.0
    steps: list[list[int]] = field(default_factory=list)
    contributions: Contributions | None = None

    def add(self, updates: Sequence[Update]) -> None:
        """Add the losses of one exchange."""
        for update in updates:
            self.passes_rows += update.num_rows
            for name, value in update.losses.items():
                self.losses[name] = self.losses.get(name, 0.0) + value


def joined_rounds(rounds: Sequence[Round]) -> Round:
    """What several contributors did at the same time, as one: sums, and the longest of their times.

    >>> one = Round({"loss": 1.0}, passes_rows=2, seconds_learning=0.5)
    >>> both = joined_rounds([one, Round({"loss": 3.0}, passes_rows=2, seconds_learning=0.25)])
    >>> both.losses, both.passes_rows, both.seconds_learning
    ({'loss': 4.0}, 4, 0.5)
    """
    losses: dict[str, float] = {}
    for done in rounds:
        for name, value in done.losses.items():
            losses[name] = losses.get(name, 0.0) + value
    return Round(
        losses,
        sum(done.passes_rows for done in rounds),
        sum(done.bytes_exchanged for done in rounds),
        max(done.seconds_learning for done in rounds),
        max(done.seconds_exchanging for done in rounds),
        max(done.seconds_hidden for done in rounds),
        [steps for done in rounds for steps in done.steps],
    )


@dataclass(frozen=True, slots=True)
class Consolidated:
    """What participants contribute after their strategies have consolidated, in their order.

    rows: how many each learned since its last consolidation; states: what its strategies share; updates: its weights,
    if strategies change them.
    """

    rows: Sequence[int]
    states: Sequence[Mapping[str, Tensor]]
    updates: Sequence[Update]


class Cohort(Protocol):
    """The participants of a round, seen from where the arithmetic is done.

    outer: the outer step, from a round's anchor and mean to the next anchor.
    """

    outer: Outer

    @property
    def rules(self) -> Mapping[str, str]:
        """The merge rule of each weight."""

    @property
    def remakes(self) -> bool:
        """Whether strategies change weights when they consolidate, so that weights are merged once more."""

    def anchor(self) -> Weights:
        """The current common weights; those that the merge or the outer step needs are safe from learning."""

    def merge(self, updates: Sequence[Update], anchor: Weights, *, exactly: bool = False) -> tuple[Weights, int]:
        """The mean of all participants' updates, those given and others, and how many rows they stand for.

        exactly: no weight may be rounded on its way, though the job lets what was learned be.
        """

    def adopt(self, weights: Weights) -> None:
        """Make these the weights of all participants."""

    def consolidate(self) -> Consolidated:
        """Let strategies consolidate, at weights that are the same everywhere."""

    def merge_shared(self, made: Consolidated) -> None:
        """Merge what strategies share, for all participants."""

    def derive(self) -> None:
        """Let strategies derive weights from what was merged."""


def take_round(cohort: Cohort, learn: Callable[[], Sequence[Update]], done: Round) -> None:
    """Learn, merge, and take the outer step from the anchor.

    learn: returns the updates made here, a contributor's own or all clients'. done: to which their losses are added. In
    a round in which no rows were learned the outer step is skipped: it would apply momentum alone.
    """
    anchor = cohort.anchor()
    updates = learn()
    done.add(updates)
    merged, rows = cohort.merge(updates, anchor)
    if rows:
        cohort.adopt(cohort.outer.step(anchor, merged, cohort.rules))


def consolidate(cohort: Cohort) -> None:
    """Let strategies consolidate at the round's result; merge what they share and the weights that they changed."""
    anchor = cohort.anchor() if cohort.remakes else {}
    made = cohort.consolidate()
    cohort.merge_shared(made)
    if cohort.remakes:
        cohort.adopt(cohort.merge(made.updates, anchor, exactly=True)[0])
    cohort.derive()
