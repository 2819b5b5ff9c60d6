"""One round, defined once for all engines: anchor, learn, merge, outer step, adopt; and consolidation after rounds.

The participants of a round form a `Cohort`, from the point of view of the process that computes: the single participant
of a process, a Ray worker with its exchange, or a Flower server with its clients.
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
    """Losses and costs of learning, in one round or several.

    Attributes:
        losses: Sum of each loss term over learned rows, by name.
        passes_rows: Rows learned, counting a row once per pass.
        bytes_exchanged: Bytes sent.
        seconds_learning: Seconds of learning.
        seconds_exchanging: Seconds of exchanges.
        seconds_hidden: Seconds of exchanges during which learning continued.
        steps: Optimiser steps of each participant in each round, if only a clock determined them (`ByTime`).
        contributions: Contributions of the participants, if a server records them; otherwise None.
        cpu_seconds: CPU seconds of the increment, of all processes.
        memory: Increase of the memory of the process where it was largest, relative to the one that the limit allows
            (`Usage.spent`).
    """

    losses: dict[str, float] = field(default_factory=dict)
    passes_rows: int = 0
    bytes_exchanged: int = 0
    seconds_learning: float = 0.0
    seconds_exchanging: float = 0.0
    seconds_hidden: float = 0.0
    steps: list[list[int]] = field(default_factory=list)
    contributions: Contributions | None = None
    cpu_seconds: float = 0.0
    memory: float = 0.0

    def add(self, updates: Sequence[Update]) -> None:
        """Add the losses of one exchange."""
        for update in updates:
            self.passes_rows += update.num_rows
            for name, value in update.losses.items():
                self.losses[name] = self.losses.get(name, 0.0) + value


def joined_rounds(rounds: Sequence[Round]) -> Round:
    """Combine the simultaneous work of several contributors: sums of counts, and maxima of times.

    Example:
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
        cpu_seconds=sum(done.cpu_seconds for done in rounds),
        memory=max(done.memory for done in rounds),
    )


@dataclass(frozen=True, slots=True)
class Consolidated:
    """Contributions of the participants after their strategies have consolidated, in order.

    Attributes:
        rows: Rows that each learned since its last consolidation.
        states: Shared state of its strategies.
        updates: Its weights, if strategies change them.
    """

    rows: Sequence[int]
    states: Sequence[Mapping[str, Tensor]]
    updates: Sequence[Update]


class Cohort(Protocol):
    """The participants of a round, from the point of view of the process that computes.

    Attributes:
        outer: The outer step, from a round's anchor and mean to the next anchor.
    """

    outer: Outer

    @property
    def rules(self) -> Mapping[str, str]:
        """The merge rule of each weight."""

    @property
    def remakes(self) -> bool:
        """Whether strategies change weights when they consolidate, so that weights are merged once more."""

    def anchor(self) -> Weights:
        """Return the current common weights; those that the merge or the outer step needs are copies."""

    def merge(self, updates: Sequence[Update], anchor: Weights, *, exactly: bool = False) -> tuple[Weights, int]:
        """Return the mean of all participants' updates, given here or elsewhere, and their total number of rows.

        Args:
            updates: The updates made in this process.
            anchor: The anchor.
            exactly: Whether weights must not be rounded in transfer, even if the job allows it for learned weights.
        """

    def adopt(self, weights: Weights) -> None:
        """Set the weights of all participants."""

    def consolidate(self) -> Consolidated:
        """Let strategies consolidate, at weights that are equal everywhere."""

    def merge_shared(self, made: Consolidated) -> None:
        """Merge the strategies' shared state, for all participants."""

    def derive(self) -> None:
        """Let strategies derive weights from the merged state."""


def take_round(cohort: Cohort, learn: Callable[[], Sequence[Update]], done: Round) -> None:
    """Learn, merge, and take the outer step from the anchor.

    If no rows were learned in a round, the outer step is skipped: it would apply momentum alone.

    Args:
        cohort: The participants.
        learn: Returns the updates made in this process: the contributor's own, or all clients'.
        done: The losses are added to it.
    """
    anchor = cohort.anchor()
    updates = learn()
    done.add(updates)
    merged, rows = cohort.merge(updates, anchor)
    if rows:
        cohort.adopt(cohort.outer.step(anchor, merged, cohort.rules))


def consolidate(cohort: Cohort) -> None:
    """Let strategies consolidate at the round's result, and merge their shared state and changed weights."""
    anchor = cohort.anchor() if cohort.remakes else {}
    made = cohort.consolidate()
    cohort.merge_shared(made)
    if cohort.remakes:
        cohort.adopt(cohort.merge(made.updates, anchor, exactly=True)[0])
    cohort.derive()
