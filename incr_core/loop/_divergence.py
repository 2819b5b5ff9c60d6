"""Divergence: identification of the increment that made the loss or the weights NaN or infinite.

That increment is skipped: the loop returns to the last commit and repeats the increments since then, bit for bit,
without the diverged one, whose rows are quarantined. No copies are needed in normal operation.

Losses are checked after every increment, weights only before a commit, which reads them anyway. The last step of an
increment may leave bad weights that only the next increment's loss reveals. If several increments were learned since
the last check of the weights, it is unknown which of them diverged: after the return, weights are checked after each
increment.
"""

from __future__ import annotations

import math

from incr_core.engines import Engine
from incr_core.rounds import Round

__all__ = ["Divergence", "fault_of"]


class Divergence:
    """State since the last commit: the increments to skip, and the range in which weights are checked after each.

    Attributes:
        skipped: Reason why an increment is not learned, by its number.

    Example:
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
        """Whether weights are checked after this increment."""
        return number <= self._check_up_to

    def learned(self, number: int, checked: bool) -> None:
        """Record an increment without a fault; `checked` means that the weights after it were checked."""
        self._unchecked = 0 if checked else self._unchecked + 1

    def found(self, number: int, fault: str) -> bool:
        """Record a fault after this increment. Return True if this increment caused it, and is skipped from now on.

        In both cases the caller returns to the last commit.
        """
        known = self._unchecked == 0
        if known:
            self.skipped[number] = fault
        else:
            self._check_up_to = number
        self._unchecked = 0
        return known

    def committed(self) -> None:
        """Reset after a commit."""
        self.skipped, self._unchecked, self._check_up_to = {}, 0, -1


def fault_of(learned: Round, engine: Engine | None) -> str | None:
    """Return the first non-finite loss of an increment or, if an engine is given, weight; None if all are finite.

    Example:
        >>> fault_of(Round({"loss": math.nan}, passes_rows=1), None)
        'the loss is nan'
    """
    for name, value in learned.losses.items():
        if not math.isfinite(value):
            return f"the {name} is {value}"
    weight = None if engine is None else engine.not_finite()
    return None if weight is None else f"{weight} has values that are not finite"
