"""Orders: what all participants are to do besides learning the increments as they come."""

from __future__ import annotations

from dataclasses import dataclass

from incr_core.learner import Learner
from incr_core.rounds._reference import Reference

__all__ = ["Orders", "follow"]


@dataclass(frozen=True, slots=True)
class Orders:
    """What to do between two increments; every participant gets the same.

    consolidate: let the strategies consolidate what was learned since they last did.
    rate: from now on the learning rate is this many times its configured value; None: leave it.
    flush: empty the memories. enlarge: let memories hold this many times as many rows. restart: the learning rate's
    schedule begins again (a warm restart). verdict: on the version that was judged last (`Reference.follow`).
    aside: rates leave out what becomes known from where a participant stands up to this time, in microseconds.
    share: from the next increment on, learn this share of its rows (`limits.seconds`).

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
        """Both: what either of them asks for; of two numbers the second."""
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
    """Do what a learner, and rows of the past, can do of orders: all but consolidating and leaving out rows."""
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
