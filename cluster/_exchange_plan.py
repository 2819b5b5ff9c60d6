"""What travels between replicas at one time: spans of a flat layout, in waves of one share a replica.

Small tensors that share a rule and a type lie end to end, so that the work does not grow with their number; large ones
travel from their own memory. Waves are small: what was read a moment ago is still in the processor's cache when it is
sent, merged or written, and the memory kept for three of them does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

import torch
from torch import Tensor

from incr_core.numerics import FlatLayout, Piece
from incr_core.update import Weights

__all__ = ["ALIGNED", "WAVES", "Span", "waves_of"]

WAVES = 3
"""Waves under way at one time: one is on its way to be merged, one is merged, one is on its way back."""

LENGTH = {"cpu": 16 << 20, "cuda": 64 << 20}
"""Bytes of a wave: few enough for a processor's cache, many enough that to start a message costs little."""

ALONE = 1 << 16
"""Bytes from which on a piece travels alone: a message costs more than to copy less."""

ALIGNED = 16
"""Bytes at whose multiples spans are cut: the size of every type divides it."""


class Span:
    """Pieces of tensors that travel as one message and that one replica merges.

    A piece alone travels from its tensor's memory and back to it; several travel by `memory`.

    pieces: what it is made of. rules: its runs, pieces of one rule and type, and how each merges.
    received: (size - 1, bytes), where the same span of the other replicas arrives.
    """

    def __init__(
        self, layout: FlatLayout, pieces: list[Piece], rules: Mapping[str, str], memory: Tensor, received: Tensor
    ) -> None:
        self.pieces = pieces
        self.rules: dict[str, str] = {}
        self._runs: dict[str, tuple[torch.dtype, list[Piece], slice]] = {}
        places, stop = [], 0
        for (rule, dtype), run in groupby(pieces, lambda piece: (rules[piece.name], layout.places[piece.name].dtype)):
            begin = stop = -(-stop // dtype.itemsize) * dtype.itemsize
            of_run = list(run)
            for piece in of_run:
                start, stop = stop, stop + (piece.last - piece.first) * dtype.itemsize
                place = memory[start:stop].view(dtype)
                places.append(place.view(layout.places[piece.name].shape) if piece.whole else place)
            self.rules[f"{rule} {dtype}"] = rule
            self._runs[f"{rule} {dtype}"] = dtype, of_run, slice(begin, stop)
        assert stop <= min(len(memory), received.shape[1])
        self.nbytes = stop
        self.received = received[:, :stop]
        self._memory = memory[:stop]
        self._places = places

    def memory(self, tensors: Weights) -> Tensor:
        """The bytes that hold the span."""
        return self._memory if len(self.pieces) > 1 else _part(tensors, self.pieces[0]).view(-1).view(torch.uint8)

    def read(self, tensors: Weights) -> Tensor:
        """The bytes that hold the span, as the tensors are now."""
        if len(self.pieces) > 1:
            torch._foreach_copy_(self._places, [_part(tensors, piece) for piece in self.pieces])
        return self.memory(tensors)

    def write(self, tensors: Weights) -> None:
        """Give the tensors what the bytes hold."""
        if len(self.pieces) > 1:
            torch._foreach_copy_([_part(tensors, piece) for piece in self.pieces], self._places)

    def leaving(self, tensors: Weights, rows: int) -> Tensor:
        """What is sent to be merged: the bytes that hold the span."""
        return self.read(tensors)

    def own(self, tensors: Weights) -> Weights:
        """What this replica has, by run."""
        return self.runs(self.memory(tensors))

    def others(self) -> list[Weights]:
        """What the others have sent, by run."""
        return [self.runs(row) for row in self.received]

    def merged(self) -> None:
        """The bytes are what all merge to."""

    def runs(self, memory: Tensor) -> Weights:
        """Bytes of the span, by run: vectors of numbers."""
        return {key: memory[place].view(dtype) for key, (dtype, _, place) in self._runs.items()}

    def summed(self, anchor: Mapping[str, Tensor]) -> Weights:
        """The anchor's part, of the runs that merge by "sum"."""
        return {
            key: torch.cat([anchor[name].reshape(-1)[first:last] for name, first, last, _ in pieces])
            for key, (_, pieces, _) in self._runs.items()
            if self.rules[key] == "sum"
        }


def waves_of(tensors: Weights, rules: Mapping[str, str], size: int) -> list[list[list[Span]]]:
    """Tensors in waves of `size` shares, all as large as one another, in spans; replica n merges a wave's n-th share.

    >>> [wave] = waves_of({"w": torch.ones(7), "n": torch.tensor(2), "v": torch.ones(2)}, {"n": "max"}, 2)
    >>> [[span.rules for span in share] for share in wave]
    [[{'mean torch.float32': 'mean'}], [{'mean torch.float32': 'mean', 'max torch.int64': 'max'}]]
    """
    ruled = {name: rules.get(name, "mean") for name in tensors}
    alike: dict[tuple[str, torch.dtype], list[str]] = {}
    # What is small comes first, and so together.
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].nbytes >= ALONE):
        alike.setdefault((ruled[name], tensor.dtype), []).append(name)
    layout = FlatLayout.of({name: tensors[name] for names in alike.values() for name in names})
    device = next(iter(tensors.values())).device
    waves = max(1, -(-layout.nbytes // LENGTH[device.type]))
    length = max(1, -(-layout.nbytes // (waves * size * ALIGNED))) * ALIGNED
    cut = layout.cut(length)
    width = length + ALIGNED * max(map(len, cut), default=0)  # each span begins aligned
    memory = torch.empty(WAVES, size, width, dtype=torch.uint8, device=device)
    received = torch.empty(WAVES, size - 1, width, dtype=torch.uint8, device=device)
    found: list[list[list[Span]]] = [[] for _ in range(waves)]
    for number, pieces in enumerate(cut):
        wave, share = divmod(number, size)
        found[wave].append(_spans(layout, pieces, ruled, memory[wave % WAVES, share], received[wave % WAVES]))
    return found


def _spans(
    layout: FlatLayout, pieces: Iterable[Piece], rules: Mapping[str, str], memory: Tensor, received: Tensor
) -> list[Span]:
    """A share in spans: each large piece alone, and what lies between two of them together."""

    def large(piece: Piece) -> Piece | None:
        return piece if (piece.last - piece.first) * layout.places[piece.name].dtype.itemsize >= ALONE else None

    found, start = [], 0
    for _, together in groupby(pieces, large):
        span = Span(layout, list(together), rules, memory[start:], received[:, start:])
        found.append(span)
        start += -(-span.nbytes // ALIGNED) * ALIGNED
    return found


def _part(tensors: Weights, piece: Piece) -> Tensor:
    tensor = tensors[piece.name]
    return tensor if piece.whole else tensor.view(-1)[piece.first : piece.last]
