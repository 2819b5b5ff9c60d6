"""Limit on the time of an increment: the share of the next increment's rows to learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Limits"]

LEAST = 0.01
"""The least share: the run goes on learning, however slow."""

GROWTH = 2.0
"""By which factor the share may grow in one increment."""


class Limits:
    """Follow the time that increments take, and lower the share of rows to learn where it is above a limit.

    Args:
        seconds: Of an increment, to predict, learn and exchange; None: any time.

    Attributes:
        share: Of the next increment's rows. The loop's state keeps it, so a resumed run goes on with it.
        dropping: Whether rows of the last increment were dropped.

    Example:
        >>> limits = Limits(2.0)
        >>> limits.took(8.0, rows=100), limits.share
        (True, 0.25)
        >>> limits.took(2.0, rows=25), limits.took(1.0, rows=25), limits.share
        (False, True, 0.5)
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds, self.share, self.dropping = seconds, 1.0, False

    def took(self, seconds: float, rows: int) -> bool:
        """Record the seconds and rows of an increment. Return whether the share has changed."""
        if self.seconds is None or not rows:
            return False
        wanted = self.share * min(self.seconds / max(seconds, 1e-9), GROWTH)
        share = round(min(max(wanted, LEAST), 1.0), 2)
        if abs(share - self.share) < 0.05 * self.share and share < 1.0:
            return False
        changed, self.share = share != self.share, share
        return changed

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run continues with."""
        return {"share": self.share, "dropping": self.dropping}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it; without a limit, every row is learned."""
        self.share, self.dropping = (state["share"] if self.seconds is not None else 1.0), state["dropping"]
