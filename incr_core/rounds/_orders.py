"""Orders to all participants besides learning the increments."""

from __future__ import annotations

from dataclasses import dataclass

from incr_core.learner import Learner
from incr_core.rounds._reference import Reference

__all__ = ["Orders", "follow"]


@dataclass(frozen=True, slots=True)
class Orders:
    """Orders between two increments; every participant receives the same.

    Attributes:
        consolidate: Let the strategies consolidate the rows learned since the last consolidation.
        rate: New factor on the configured learning rate; None keeps the current one.
        flush: Empty the memories.
        enlarge: Factor on the capacity of memories.
        restart: Restart the learning-rate schedule (a warm restart).
        verdict: Verdict on the version that was judged last (`Reference.follow`).
        aside: Rates exclude outcomes from the participant's current stream time up to this time, in microseconds.
        share: Share of the rows to learn from the next increment on (`limits.seconds`).

    Example:
        >>> bool(Orders()), bool(Orders(rate=3.0))
        (False, True)
    """

    consolidate: bool = False
    rate: float | None = None
    flush: bool = False
    enlarge: float = 1.0
    restart: bool = False
    verdict: str | None = None
    aside: int | None = None
    share: float | None = None

    def __bool__(self) -> bool:
        return self != Orders()

    def __or__(self, other: Orders) -> Orders:
        """Combine orders; of two numbers the second is taken."""
        return Orders(
            self.consolidate or other.consolidate,
            self.rate if other.rate is None else other.rate,
            self.flush or other.flush,
            self.enlarge if other.enlarge == 1.0 else other.enlarge,
            self.restart or other.restart,
            self.verdict if other.verdict is None else other.verdict,
            self.aside if other.aside is None else other.aside,
            self.share if other.share is None else other.share,
        )


def follow(orders: Orders, learner: Learner, reference: Reference | None) -> None:
    """Apply orders to a learner and to reference rows: all but consolidation and excluded rows."""
    if orders.rate is not None:
        learner.descent.rate = orders.rate
    if orders.restart and learner.descent.schedule is not None:
        learner.descent.schedule.restart()
    for memory in learner.memories():
        if orders.flush:
            memory.clear()
        if orders.enlarge != 1.0:
            memory.enlarge(orders.enlarge)
    if orders.verdict is not None and reference is not None:
        reference.follow(orders.verdict)
