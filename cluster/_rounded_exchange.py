"""What travels between replicas where the wire is narrower than weights: differences from the anchor, rounded.

    there   a replica sends code(d + e), of the difference d = w - a that it has learned and of what is left over, e
    merge   the merger takes its own d as it is, and sends code(m + e), m the mean of all by their rows
    back    all replicas, the merger too, adopt a + decoded

What a coding leaves out, e <- x - decoded, is added to what is coded in the next round (error feedback: Seide et al.
2014; Karimireddy et al. 2019, arXiv:1901.09847), so over many rounds nothing is left out but the last e. Of each number
a replica codes one thing, what it has learned or what it merges, and so one e is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cluster._exchange_plan import ALIGNED, WAVES
from incr_core.numerics import WIRES, Blockwise, FlatLayout, Piece, encode_with_feedback
from incr_core.update import Weights

__all__ = ["RoundedSpan", "rounded_waves_of"]

LENGTH = 4 << 20
"""Bytes of a wave, before they are coded: several copies of it are worked on."""


class RoundedSpan:
    """Pieces of tensors that travel as one message of codes, and that one replica merges.

    pieces: what it is made of. coding: how numbers travel. size: how many replicas there are.
    values: (n,) float32, what is coded and decoded. wire: (bytes,), the message. received: (size - 1, bytes), those of
    the others. decoded: (size - 1, n) float32, what these say.
    """

    rules: Mapping[str, str] = {"differences": "mean"}

    def __init__(
        self,
        layout: FlatLayout,
        pieces: Sequence[Piece],
        coding: Blockwise,
        values: Tensor,
        wire: Tensor,
        received: Tensor,
        decoded: Tensor,
    ) -> None:
        self._pieces, self._coding = pieces, coding
        count = sum(piece.last - piece.first for piece in pieces)
        self._values, self._decoded = values[:count], decoded[:, :count]
        self._wire, self.received = wire[: coding.nbytes(count)], received[:, : coding.nbytes(count)]
        self._places, stop = list[Tensor](), 0
        for piece in pieces:
            start, stop = stop, stop + piece.last - piece.first
            place = self._values[start:stop]
            self._places.append(place.view(layout.places[piece.name].shape) if piece.whole else place)
        self._anchor: list[Tensor] = []
        self._left: list[Tensor] = []

    def begin(self, anchor: Mapping[str, Tensor], left: Mapping[str, Tensor]) -> None:
        """An exchange begins. left: e, which it changes."""
        self._anchor, self._left = self._of(anchor), self._of(left)

    def read(self, tensors: Weights) -> None:
        """Take what this replica has learned since the anchor, to merge it."""
        torch._foreach_copy_(self._places, self._of(tensors))
        torch._foreach_sub_(self._places, self._anchor)

    def leaving(self, tensors: Weights, rows: int) -> Tensor:
        """The message of what this replica has learned. Without rows nobody heeds it, and what is left over stays."""
        self.read(tensors)
        return self._coded() if rows else self._wire

    def own(self, tensors: Weights) -> Weights:
        """What this replica has learned, as what is merged."""
        return {"differences": self._values}

    def others(self) -> list[Weights]:
        """What the others have learned, by their messages."""
        return [
            {"differences": self._coding.decode(row, out)}
            for row, out in zip(self.received, self._decoded, strict=True)
        ]

    def summed(self, anchor: Mapping[str, Tensor]) -> Weights:
        """The anchor, where the rule is "sum": it never is."""
        return {}

    def merged(self) -> None:
        """Own values are the mean of all: make the message of it."""
        self._coded()

    def memory(self, tensors: Weights) -> Tensor:
        """The bytes of the message."""
        return self._wire

    def write(self, tensors: Weights) -> None:
        """Give the tensors what the message says."""
        self._coding.decode(self._wire, self._values)
        torch._foreach_add_(self._places, self._anchor)
        torch._foreach_copy_(self._of(tensors), self._places)

    def _coded(self) -> Tensor:
        """Code the values and what is left over; what is left over now is kept."""
        return encode_with_feedback(self._coding, self._values, self._places, self._left, self._wire)

    def _of(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """The parts of tensors that it is made of."""
        return [
            tensors[name] if whole else tensors[name].reshape(-1)[first:last]
            for name, first, last, whole in self._pieces
        ]


def rounded_waves_of(tensors: Mapping[str, Tensor], wire: str, size: int) -> list[list[list[RoundedSpan]]]:
    """Tensors in waves of `size` shares, all as large as one another; replica n merges a wave's n-th share.

    >>> [len(share) for wave in rounded_waves_of({"w": torch.ones(7), "v": torch.ones(2)}, "int8", 2) for share in wave]
    [1, 1]
    """
    coding = Blockwise(WIRES[wire])
    layout = FlatLayout((name, torch.float32, value.shape) for name, value in tensors.items())
    device = next(iter(tensors.values())).device
    waves = max(1, -(-layout.nbytes // LENGTH))
    length = max(1, -(-layout.nbytes // (waves * size * ALIGNED))) * ALIGNED
    count = length // 4
    width = -(-coding.nbytes(count) // ALIGNED) * ALIGNED
    values = torch.empty(WAVES, size, count, device=device)
    messages = torch.empty(WAVES, size, width, dtype=torch.uint8, device=device)
    received = torch.empty(WAVES, size - 1, width, dtype=torch.uint8, device=device)
    decoded = torch.empty(size - 1, count, device=device)  # one span is merged at a time
    found: list[list[list[RoundedSpan]]] = [[] for _ in range(waves)]
    for number, pieces in enumerate(layout.cut(length)):
        wave, share = divmod(number, size)
        turn = wave % WAVES
        memory = values[turn, share], messages[turn, share], received[turn], decoded
        found[wave].append([RoundedSpan(layout, pieces, coding, *memory)] if pieces else [])
    return found
