"""Lost workers: consecutive losses, and their events after recovery."""

from __future__ import annotations

import time
from collections.abc import Callable

from incr_core.errors import WorkerLost

__all__ = ["Losses"]


class Losses:
    """Workers that were lost since the last commit.

    Attributes:
        healed: Loss and reaction, for the events of the next commit.

    Example:
        >>> now = [0.0]
        >>> losses = Losses(clock=lambda: now[0])
        >>> losses.heals(WorkerLost("cluster: replica 1 died while learning 2013-02-01; version 7 is ..."), most=1)
        True
        >>> now[0] = 0.5; losses.gone_on(); losses.healed
        [('cluster: replica 1 died while learning 2013-02-01', 'replaced; learning continued after 0.50 s')]
        >>> losses.heals(WorkerLost("cluster: replica 1 died; ..."), most=1)
        False
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._in_a_row = 0
        self._noticed: list[tuple[float, str]] = []
        self.healed: list[tuple[str, str]] = []
        self._told = 0

    def heals(self, lost: WorkerLost, most: int) -> bool:
        """Record a loss; return whether the run may recover: not after more than `most` in a row without a commit."""
        self._in_a_row += 1
        self.noticed(str(lost).partition(";")[0])
        return self._in_a_row <= most

    def noticed(self, what: str) -> None:
        """Record a loss that is being repaired."""
        self._noticed.append((self._clock(), what))

    def gone_on(self) -> None:
        """Record that an increment was learned after the loss."""
        for then, what in self._noticed:
            self.healed.append((what, f"replaced; learning continued after {self._clock() - then:.2f} s"))
        self._noticed = []

    def tell(self) -> list[tuple[str, str]]:
        """Return the repaired losses, for a commit that begins."""
        self._told = len(self.healed)
        return list(self.healed)

    def committed(self) -> None:
        """Drop the losses that the commit has recorded."""
        self._in_a_row, self._told, self.healed = 0, 0, self.healed[self._told :]
