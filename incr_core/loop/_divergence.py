"""Divergence: which increment made the loss or the weights something else than numbers.

An increment that does is not learned: the loop returns to the last commit and learns the increments since then again,
to the same bits, but for that one, whose rows go to quarantine. Nothing is kept for the case that never comes.

Losses are looked at after every increment, weights only before a commit, where they are at hand. A last step may leave
weights that only the next increment's loss betrays. So where several increments have been learned since weights were
last seen to be finite, it is not known which one it was: after the return, weights are looked at after each of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from incr_core.numerics import all_finite
from incr_core.rounds import Round

__all__ = ["Divergence", "fault_of"]


class Divergence:
    """What is known since the last commit: the increments not to learn, and how far weights must be watched.

    refused: number of an increment -> why it is not learned.

    >>> divergence = Divergence()
    >>> divergence.learned(4, seen=True); divergence.learned(5, seen=False)
    >>> divergence.found(6, "the loss is nan"), divergence.watches(5)  # 5 or 6? look again
    (False, True)
    >>> divergence.learned(4, seen=True)
    >>> divergence.found(5, "w has values that are not finite"), divergence.refused
    (True, {5: 'w has values that are not finite'})
    """

    def __init__(self) -> None:
        self.refused: dict[int, str] = {}
        self._unseen = 0
        self._watched_to = -1

    def watches(self, number: int) -> bool:
        """Whether weights are to be looked at after this increment."""
        return number <= self._watched_to

    def learned(self, number: int, seen: bool) -> None:
        """An increment was learned without fault; `seen`: its weights were looked at."""
        self._unseen = 0 if seen else self._unseen + 1

    def found(self, number: int, fault: str) -> bool:
        """A fault after this increment: True where it is known to be this one's; it is refused from now on.

        Either way, the caller returns to the last commit.
        """
        known = self._unseen == 0
        if known:
            self.refused[number] = fault
        else:
            self._watched_to = number
        self._unseen = 0
        return known

    def committed(self) -> None:
        """A commit is reached: what was known of the increments before it is not needed any more."""
        self.refused, self._unseen, self._watched_to = {}, 0, -1


def fault_of(learned: Round, weights: Mapping[str, Tensor] | None) -> str | None:
    """What is not finite among an increment's losses and, where given, the weights; None where all is well.

    >>> fault_of(Round({"loss": math.nan}, passes_rows=1), None)
    'the loss is nan'
    """
    for name, value in learned.losses.items():
        if not math.isfinite(value):
            return f"the {name} is {value}"
    for name, weight in (weights or {}).items():
        if not all_finite(weight):
            return f"{name} has values that are not finite"
    return None
