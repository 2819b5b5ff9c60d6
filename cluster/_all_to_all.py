"""Exchange of small weights: every replica sends all of them to every other once, and merges everything itself.

This takes one network round trip instead of the three of counts, scatter and gather. For few bytes, round trips
dominate the cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from cluster import _exchange_plan as spans
from cluster._exchange_plan import ALIGNED, waves_of
from incr_core.update import Weights

__all__ = ["OneMessage"]


class OneMessage:
    """Tensors preceded by the count of rows, and buffers for those of all replicas.

    `going` and `coming` are (size, bytes): the message to each replica, the same for all, and the message from each.

    Example:
        >>> message = OneMessage({"w": torch.ones(3)}, {}, size=2)
        >>> message.going.shape, message.nbytes
        (torch.Size([2, 32]), 32)
    """

    def __init__(self, tensors: Weights, rules: Mapping[str, str], size: int) -> None:
        [[[self.span]]] = waves_of(tensors, rules, 1)
        width = ALIGNED + -(-self.span.nbytes // ALIGNED) * ALIGNED
        self.going = torch.zeros(size, width, dtype=torch.uint8, device=next(iter(tensors.values())).device)
        self.coming = torch.empty_like(self.going)
        self.nbytes = width * (size - 1)

    @staticmethod
    def fits(tensors: Weights, size: int) -> bool:
        """Whether tensors are so small that this is the shortest way."""
        return 0 < sum(value.nbytes + ALIGNED for value in tensors.values()) * (size - 1) < spans.ALONE

    def write(self, tensors: Weights, rows: int) -> None:
        """Write the tensors and the count into the outgoing message."""
        self.going[:, :8].view(torch.int64).fill_(rows)
        self.going[:, ALIGNED : ALIGNED + self.span.nbytes] = self.span.read(tensors)

    def read(self) -> tuple[Sequence[Weights], list[int]]:
        """Return the tensors from each replica, by run, and the counts of rows."""
        counts: list[int] = self.coming[:, :8].contiguous().view(torch.int64).flatten().tolist()
        return [self.span.runs(row[ALIGNED:]) for row in self.coming], counts
