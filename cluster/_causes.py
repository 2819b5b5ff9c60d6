"""Finds the worker that caused failed calls, as opposed to workers that failed because of it.

One loss makes many calls fail. Peers lose their connections, and a worker that waits for a stuck one appears stuck too.
Failures are therefore collected for a moment. The first kind in this list is reported as the cause:

    a process that is gone
    an exception of a worker's own code
    a worker that is silent, or stuck in something other than a wait for peers
    workers to which their peers have lost the connection
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch.distributed as dist

from incr_core.errors import EngineError

__all__ = ["Causes", "of_peers"]


def of_peers(error: BaseException) -> bool:
    """Return whether a worker raised this error because of a peer, regardless of that peer's state.

    gloo's errors have no type that identifies them, but their text names the source file in gloo.

    Example:
        >>> of_peers(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.7]:39597"))
        True
        >>> of_peers(RuntimeError("a device has failed"))
        False
    """
    return isinstance(error, EngineError | dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


@dataclass(slots=True)
class Causes:
    """The failures found so far, by worker.

    Args:
        died: Reasons why processes are known to be gone.
        silent: Reasons why workers count as silent or stuck.
        raised: Errors that workers raised.

    Example:
        >>> closed = EngineError("the connection to a peer is lost")
        >>> found = Causes(raised={0: closed}, silent={0: "was stuck for 3 s"})
        >>> found.lost
        {0: 'was stuck for 3 s'}
        >>> found.raised[2] = ValueError("no such row"); found.lost
        {2: 'raised ValueError: no such row'}
        >>> found.died[1] = "died"; found.lost
        {1: 'died'}
    """

    died: dict[int, str] = field(default_factory=dict)
    raised: dict[int, BaseException] = field(default_factory=dict)
    silent: dict[int, str] = field(default_factory=dict)

    @property
    def own(self) -> dict[int, BaseException]:
        """Errors that workers raised without a peer as the cause."""
        return {number: error for number, error in self.raised.items() if not of_peers(error)}

    @property
    def lost(self) -> dict[int, str]:
        """Return the workers at fault and the reasons; empty while only consequences are known."""
        own = {number: f"raised {type(error).__name__}: {error}" for number, error in self.own.items()}
        return self.died or own or self.silent

    def consequences(self, unheard: Collection[int], waits: Mapping[int, bool]) -> dict[int, str]:
        """Return the workers to name if no cause was found: silent ones before those that wait for peers.

        Args:
            unheard: Workers whose calls have not ended.
            waits: Those of them that waited for peers at their last sign of life.

        Example:
            >>> Causes(raised={0: EngineError("connection closed")}).consequences([1, 2], {1: True, 2: False})
            {2: 'lost the connection to its peers'}
            >>> Causes(raised={0: EngineError("connection closed")}).consequences([], {})
            {0: 'lost the connection to its peers: connection closed'}
        """
        lost = "lost the connection to its peers"
        if unheard:
            named = [number for number in unheard if not waits.get(number, False)] or unheard
            return dict.fromkeys(named, lost)
        return {number: f"{lost}: {str(error).splitlines()[0]}" for number, error in self.raised.items()}
