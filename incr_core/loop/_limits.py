"""Limits on the cost of an increment: the share of the next increment's rows to learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from incr_core.job import LimitsSection
from incr_core.rounds import Round

__all__ = ["Limits"]

LEAST = 0.01
"""Minimum share: the run continues to learn, however slow it is."""

GROWTH = 2.0
"""Maximum factor by which the share grows in one increment."""


class Limits:
    """Follows what increments cost, and lowers the share of rows to learn while a limit is exceeded.

    Args:
        wanted: The limits of a job.

    Attributes:
        share: Share of the next increment's rows. It is part of the loop's state, so a resumed run continues with it.
        dropping: Whether rows of the last increment were dropped.

    Example:
        >>> limits = Limits(LimitsSection(seconds=2.0))
        >>> limits.took(8.0, Round(), rows=100), limits.share
        (True, 0.25)
        >>> limits.took(2.0, Round(), rows=25), limits.took(1.0, Round(), rows=25), limits.share
        (False, True, 0.5)
        >>> limits = Limits(LimitsSection(cpu_seconds=2.0))
        >>> limits.took(1.0, Round(cpu_seconds=4.0), rows=100), limits.share
        (True, 0.5)
    """

    def __init__(self, wanted: LimitsSection) -> None:
        self._seconds, self._cpu_seconds, self._memory = wanted.seconds, wanted.cpu_seconds, wanted.memory
        self.share, self.dropping = 1.0, False

    @property
    def _measures(self) -> bool:
        return any(limit is not None for limit in (self._seconds, self._cpu_seconds, self._memory))

    def took(self, seconds: float, learned: Round, rows: int) -> bool:
        """Record the cost of an increment. Return whether the share has changed.

        Args:
            seconds: Wall time of the increment.
            learned: Its round, with CPU seconds and memory.
            rows: Rows offered to learn.
        """
        if not self._measures or not rows:
            return False
        used = 1e-9
        if self._seconds is not None:
            used = max(used, seconds / self._seconds)
        if self._cpu_seconds is not None:
            used = max(used, learned.cpu_seconds / self._cpu_seconds)
        if self._memory is not None:
            used = max(used, learned.memory)
        share = round(min(max(self.share * min(1 / used, GROWTH), LEAST), 1.0), 2)
        if abs(share - self.share) < 0.05 * self.share and share < 1.0:
            return False
        changed, self.share = share != self.share, share
        return changed

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run continues with."""
        return {"share": self.share, "dropping": self.dropping}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state; without a limit, every row is learned."""
        self.share, self.dropping = (state["share"] if self._measures else 1.0), state["dropping"]
