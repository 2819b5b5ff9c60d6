"""Exchange of rounded differences from the anchor, for wires narrower than the weights.

    there   a replica sends code(d + e), of the difference d = w - a that it has learned and the remainder e
    merge   the merging replica takes its own d exactly, and sends code(m + e), m the mean of all weighted by rows
    back    all replicas, the merging one too, adopt a + decoded

The error of a coding, e <- x - decoded, is added to the value that is coded in the next round (error feedback: Seide et
al. 2014; Karimireddy et al. 2019, arXiv:1901.09847). Over many rounds only the last e is missing. For each number a
replica codes one value, the learned or the merged one, so one e is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cluster._exchange_plan import ALIGNED, WAVES
from incr_core.numerics import Blockwise, FlatLayout, Piece
from incr_core.update import Weights

__all__ = ["CODINGS", "RoundedSpan", "roundable", "rounded_waves_of"]

CODINGS = {"float16": torch.float16, "int8": torch.int8}
"""The types of codes, by the names of wires."""

LENGTH = 4 << 20
"""Bytes of a wave before coding. The code uses several copies of it."""


def roundable(wire: str) -> frozenset[torch.dtype]:
    """The types of weights that a wire rounds: those that it makes smaller, of at most the bits that are worked in.

    >>> sorted(map(str, roundable("float16"))), len(roundable("int8")), len(roundable("float32"))
    (['torch.float32'], 3, 0)
    """
    kinds = torch.float32, torch.bfloat16, torch.float16
    return frozenset(kind for kind in kinds if wire in CODINGS and kind.itemsize > CODINGS[wire].itemsize)


class RoundedSpan:
    """Pieces of tensors that are sent as one message of codes and merged by one replica.

    Args:
        pieces: The pieces.
        coding: Encoder of the numbers.
        size: Number of replicas.

    Shapes:
        values: (n,) float32, the numbers to code, and the decoded ones.
        wire: (bytes,), the message.
        received: (size - 1, bytes), the messages of the others.
        decoded: (size - 1, n) float32, the numbers in these messages.
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
        """Begin an exchange. It changes the remainders `left` in place."""
        self._anchor, self._left = self._of(anchor), self._of(left)

    def read(self, tensors: Weights) -> None:
        """Take this replica's learned difference from the anchor, to merge it."""
        torch._foreach_copy_(self._places, self._of(tensors))
        torch._foreach_sub_(self._places, self._anchor)

    def leaving(self, tensors: Weights, rows: int) -> Tensor:
        """Return the message of the learned difference. Without rows it is ignored, and the remainder stays."""
        self.read(tensors)
        return self._coded() if rows else self._wire

    def own(self, tensors: Weights) -> Weights:
        """The learned difference, as an input of the merge."""
        return {"differences": self._values}

    def others(self) -> list[Weights]:
        """The learned differences of the others, decoded from their messages."""
        return [
            {"differences": self._coding.decode(row, out)}
            for row, out in zip(self.received, self._decoded, strict=True)
        ]

    def summed(self, anchor: Mapping[str, Tensor]) -> Weights:
        """The anchor, for the rule "sum", which rounded weights never have."""
        return {}

    def merged(self) -> None:
        """Create the message of the mean of all, which the values now hold."""
        self._coded()

    def memory(self, tensors: Weights) -> Tensor:
        """The bytes of the message."""
        return self._wire

    def write(self, tensors: Weights) -> None:
        """Set the tensors from the message."""
        self._coding.decode(self._wire, self._values)
        torch._foreach_add_(self._places, self._anchor)
        torch._foreach_copy_(self._of(tensors), self._places)

    def _coded(self) -> Tensor:
        """Code the values and the remainders, and keep the new remainders."""
        torch._foreach_add_(self._places, self._left)
        torch._foreach_copy_(self._left, self._places)
        self._coding.encode(self._values, self._wire)
        self._coding.decode(self._wire, self._values)
        torch._foreach_sub_(self._left, self._places)
        return self._wire

    def _of(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """The parts of the tensors that the span consists of."""
        return [
            tensors[name] if whole else tensors[name].reshape(-1)[first:last]
            for name, first, last, whole in self._pieces
        ]


def rounded_waves_of(tensors: Mapping[str, Tensor], wire: str, size: int) -> list[list[list[RoundedSpan]]]:
    """Divide tensors into waves of `size` equal shares; replica n merges the n-th share of a wave.

    Example:
        >>> [wave] = rounded_waves_of({"w": torch.ones(7), "v": torch.ones(2)}, "int8", 2)
        >>> [len(share) for share in wave]
        [1, 1]
    """
    coding = Blockwise(CODINGS[wire])
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
