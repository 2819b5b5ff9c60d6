"""Who is at fault where calls fail: causes come before consequences.

One loss makes many calls fail: peers lose their connections, and whoever waits for one that hangs seems to hang too.
So all is collected for a moment, and the first that there is of these is told:

    a process that is gone
    an exception of a worker's own code
    a worker that is silent, or stuck in something that is no wait for peers
    those whose peers have lost the connection to them
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch.distributed as dist

from incr_core.errors import EngineError

__all__ = ["Causes", "of_peers"]


def of_peers(error: BaseException) -> bool:
    """Whether a worker raised this because of a peer: a consequence, whatever has become of that peer.

    Those of gloo have no type of their own, but tell where in gloo they come from.

    >>> of_peers(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.7]:39597"))
    True
    >>> of_peers(RuntimeError("a device has failed"))
    False
    """
    return isinstance(error, EngineError | dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


@dataclass(slots=True)
class Causes:
    """What is known, by the places of workers.

    died, silent: why they are said to be lost. raised: what they raised.

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
        """What workers raised, and not because of peers."""
        return {number: error for number, error in self.raised.items() if not of_peers(error)}

    @property
    def lost(self) -> dict[int, str]:
        """Who is at fault, and why; empty as long as there are only consequences."""
        own = {number: f"raised {type(error).__name__}: {error}" for number, error in self.own.items()}
        return self.died or own or self.silent

    def consequences(self, unheard: Collection[int], waits: Mapping[int, bool]) -> dict[int, str]:
        """Who is named where no cause was found: who has not said a word, rather than who only waits for peers.

        unheard: whose calls have not ended. waits: who of them waits, by its last sign of life.

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
