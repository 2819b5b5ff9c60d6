"""Nodes that are about to leave. Ray drains a node after a notice of preemption or on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

__all__ = ["Leaving"]

LOOK = 1.0
"""Seconds between checks."""


class Leaving:
    """Reports each relevant node that is being drained, once.

    Args:
        draining: Returns the ids of all nodes that are being drained.
        clock: Returns seconds.

    Example:
        >>> gone, now, nodes = {"n1"}, [0.0], lambda: {"n1": "replica 0", "n2": "replica 1"}
        >>> leaving = Leaving(draining=lambda: gone, clock=lambda: now[0])
        >>> leaving.noticed(nodes)
        ['replica 0']
        >>> gone.add("n2"); now[0] = 0.5; leaving.noticed(nodes)
        []
        >>> now[0] = 2.0; leaving.noticed(nodes)
        ['replica 1']
    """

    def __init__(self, draining: Callable[[], set[str]], clock: Callable[[], float] = time.monotonic) -> None:
        self._draining, self._clock = draining, clock
        self._next = 0.0
        self._known = set[str]()

    def noticed(self, nodes: Callable[[], Mapping[str, str]]) -> list[str]:
        """Return the workers on nodes that began to leave since the last check.

        Args:
            nodes: Returns node id -> description of the workers on it.
        """
        if self._clock() < self._next:
            return []
        self._next = self._clock() + LOOK
        new = self._draining() - self._known
        self._known |= new
        return [who for node, who in nodes().items() if node in new] if new else []
