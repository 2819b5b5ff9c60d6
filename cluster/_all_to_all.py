"""Exchange of small weights: every replica sends all of them to every other once, and merges everything itself.

This takes one network round trip instead of the three of counts, scatter and gather. For few bytes, round trips
dominate the cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from cluster._exchange_plan import ALIGNED, Span, waves_of
from incr_core.update import Weights

__all__ = ["OneMessage"]

MERGED = 4 << 20
"""Bytes of all replicas' tensors up to which each replica merges everything itself."""

MORE = 1 << 16
"""Bytes that a replica may send in addition to what scatter and gather send."""


class OneMessage:
    """Tensors preceded by the count of rows, and buffers for those of all replicas.

    `going` and `coming` are (size, bytes): the message to each replica, the same for all, and the message from each.

    Example:
        >>> message = OneMessage({"w": torch.ones(3)}, {}, size=2)
        >>> message.going.shape, message.nbytes
        (torch.Size([2, 32]), 32)
    """

    def __init__(self, tensors: Weights, rules: Mapping[str, str], size: int) -> None:
        [[self.spans]] = waves_of(tensors, rules, 1)
        self._places, width = [], ALIGNED
        for span in self.spans:
            self._places.append(slice(width, width + span.nbytes))
            width += -(-span.nbytes // ALIGNED) * ALIGNED
        self.going = torch.zeros(size, width, dtype=torch.uint8, device=next(iter(tensors.values())).device)
        self.coming = torch.empty_like(self.going)
        self.nbytes = width * (size - 1)

    @staticmethod
    def fits(tensors: Weights, size: int) -> bool:
        """Whether one message is the fastest way.

        It sends (size - 1) n bytes. Scatter and gather send 2 (size - 1) n / size, which is the same for two replicas.
        """
        n = sum(value.nbytes + ALIGNED for value in tensors.values())
        more = (size - 1) * n - 2 * (size - 1) * n // size
        return 0 < n * size < MERGED and more < MORE

    def write(self, tensors: Weights, rows: int) -> None:
        """Write the tensors and the count into the outgoing message."""
        self.going[:, :8].view(torch.int64).fill_(rows)
        for span, place in zip(self.spans, self._places, strict=True):
            self.going[:, place] = span.read(tensors)

    def counts(self) -> list[int]:
        """Return the count of rows from each replica."""
        found: list[int] = self.coming[:, :8].contiguous().view(torch.int64).flatten().tolist()
        return found

    def read(self) -> Iterator[tuple[Span, list[Weights]]]:
        """Yield each span with its tensors from each replica, by run."""
        for span, place in zip(self.spans, self._places, strict=True):
            yield span, [span.runs(row[place]) for row in self.coming]
