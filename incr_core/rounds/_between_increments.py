"""The work of a participant between two increments: consolidation, review, judging a version, and orders."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from incr_core.rounds._comparison import Comparison, compared
from incr_core.rounds._orders import Orders, follow
from incr_core.rounds._resuming import Resuming
from incr_core.update import Update, Weights

__all__ = ["BetweenIncrements"]


class BetweenIncrements(Resuming):
    """The part of a participant that works on rows other than those it is learning for the first time."""

    def adopt(self, anchor: Mapping[str, Tensor]) -> None:
        """Adopt these weights, except the personal ones."""
        self.learner.adopt({**anchor, **self._own()} if self.personal else anchor)

    def told(self, weights: Weights) -> Weights:
        """Return the weights that may be sent to others."""
        return {name: value for name, value in weights.items() if name not in self.personal}

    def review(self, rows: Tensor) -> Update:
        """Learn rows of the history once more, by their ids (n,); none if their files are gone."""
        assert self._cursor is not None, "there is no history before the first increment"
        found = self.stream.read_back(rows, self._cursor) if len(rows) else None
        if found is None:
            return Update(self.learner.weights(), 0)
        # Shared strategy state was merged already, and must count each row once.
        shared = {name: value.clone() for name, value in self.learner.shared_state()[0].items()}
        update = self.learner.rehearse(found)
        self.learner.adopt_shared(shared)
        return update

    def consolidate(self, anchor: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Let the strategies consolidate at the round's result; return their shared state."""
        if anchor is not None:
            self.adopt(anchor)
        assert self.increment is not None
        if self._unconsolidated is None:
            self.learner.end(self.increment.labelled, derives=False)
        elif (rows := self._unconsolidated.take()) is not None:
            self.learner.end(rows, derives=False)
        return self.learner.shared_state()[0]

    def judge(self, anchor: Mapping[str, Tensor] | None = None) -> Tensor:
        """Compare these weights with the champion: sums over past rows (`Reference.judge`)."""
        assert self.reference is not None, "the job has a gate"
        if anchor is not None:
            self.adopt(anchor)
        return self.reference.judge(self.learner)

    def compare(self, champion: Mapping[str, Tensor], anchor: Mapping[str, Tensor] | None = None) -> Comparison:
        """Compare these weights with the champion's on the rows held back, which neither version has learned."""
        if anchor is not None:
            self.adopt(anchor)
        held = None if self.increment is None else self.increment.held
        return compared(self.learner, {**champion, **self._own()}, held)

    @property
    def spans(self) -> bool:
        """Whether strategies consolidate when ordered, over several increments, instead of after each."""
        return self._unconsolidated is not None

    def follow(self, orders: Orders) -> None:
        """Follow orders, except consolidation, which needs an exchange."""
        follow(orders, self.learner, self.reference)
        if orders.aside is not None:
            self._leave_out(orders.aside)
        if orders.share is not None:
            self.sampling.share = orders.share

    @property
    def unconsolidated(self) -> int:
        """Number of rows that the strategies would consolidate now."""
        assert self.increment is not None
        return len(self.increment.labelled) if self._unconsolidated is None else self._unconsolidated.count
