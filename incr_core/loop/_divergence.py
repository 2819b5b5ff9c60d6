"""Divergence: which increment made the loss or the weights NaN or infinite.

It is skipped: the loop returns to the last commit and learns the increments since then again, to the same bits, without
that one, whose rows go to quarantine. So nothing has to be copied while all is well.

Losses are checked after every increment, weights only before a commit, which needs them anyway. The last step of an
increment may leave weights that only the next increment's loss reveals. So if several increments were learned since the
weights were last checked, it is unknown which of them diverged: after the return, weights are checked after each.
"""

from __future__ import annotations

import math

from incr_core.engines import Engine
from incr_core.rounds import Round

__all__ = ["Divergence", "fault_of"]


class Divergence:
    """What is known since the last commit: the increments to skip, and up to which to check the weights after each.

    skipped: number of an increment -> why it is not learned.

    >>> divergence = Divergence()
    >>> divergence.learned(4, checked=True); divergence.learned(5, checked=False)
    >>> divergence.found(6, "the loss is nan"), divergence.checks_weights(5)  # 5 or 6? check again
    (False, True)
    >>> divergence.learned(4, checked=True)
    >>> divergence.found(5, "w has values that are not finite"), divergence.skipped
    (True, {5: 'w has values that are not finite'})
    """

    def __init__(self) -> None:
        self.skipped: dict[int, str] = {}
        self._unchecked = 0
        self._check_up_to = -1

    def checks_weights(self, number: int) -> bool:
        """Whether weights are to be checked after this increment."""
        return number <= self._check_up_to

    def learned(self, number: int, checked: bool) -> None:
        """An increment was learned without fault; `checked`: the weights after it were."""
        self._unchecked = 0 if checked else self._unchecked + 1

    def found(self, number: int, fault: str) -> bool:
        """A fault after this increment; True if it is known to be this one's, which is skipped from now on.

        Either way, the caller returns to the last commit.
        """
        known = self._unchecked == 0
        if known:
            self.skipped[number] = fault
        else:
            self._check_up_to = number
        self._unchecked = 0
        return known

    def committed(self) -> None:
        """A commit was made: nothing needs to be known of the increments before it."""
        self.skipped, self._unchecked, self._check_up_to = {}, 0, -1


def fault_of(learned: Round, engine: Engine | None) -> str | None:
    """What is not finite among an increment's losses and, where an engine is given, its weights; None if all are.

    >>> fault_of(Round({"loss": math.nan}, passes_rows=1), None)
    'the loss is nan'
    """
    for name, value in learned.losses.items():
        if not math.isfinite(value):
            return f"the {name} is {value}"
    weight = None if engine is None else engine.not_finite()
    return None if weight is None else f"{weight} has values that are not finite"
