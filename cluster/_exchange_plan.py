"""Messages between replicas: spans of a flat layout, in waves of one share for each replica.

Small tensors of one rule and type are adjacent in memory, so the work does not grow with their number. Large tensors
are sent from their own memory. Waves are small, so data is still in the processor's cache when it is sent, merged or
written. The memory for three waves does not grow with the model.
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
"""Waves under way at one time: one is scattered, one is merged, one is gathered."""

LENGTH = {"cpu": 16 << 20, "cuda": 64 << 20}
"""Bytes of a wave: few enough for a processor's cache, enough to make the start of a message cheap."""

ALONE = 1 << 16
"""Size in bytes from which a piece is sent alone: below it, a message costs more than a copy."""

ALIGNED = 16
"""Spans are cut at multiples of this number of bytes. The size of every type divides it."""


class Span:
    """Pieces of tensors that are sent as one message and merged by one replica.

    A single piece is sent from its tensor's memory and received there. Several pieces use `memory`.

    Args:
        pieces: The pieces.
        rules: Runs of adjacent pieces with one rule and type, and the rule of each run.
        received: The same span of the other replicas, (size - 1, bytes).
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
        """Return the bytes of the span with the current values of the tensors."""
        if len(self.pieces) > 1:
            torch._foreach_copy_(self._places, [_part(tensors, piece) for piece in self.pieces])
        return self.memory(tensors)

    def write(self, tensors: Weights) -> None:
        """Copy the bytes into the tensors."""
        if len(self.pieces) > 1:
            torch._foreach_copy_([_part(tensors, piece) for piece in self.pieces], self._places)

    def leaving(self, tensors: Weights, rows: int) -> Tensor:
        """The bytes to send for merging."""
        return self.read(tensors)

    def own(self, tensors: Weights) -> Weights:
        """Values of this replica, by run."""
        return self.runs(self.memory(tensors))

    def others(self) -> list[Weights]:
        """Values that the other replicas sent, by run."""
        return [self.runs(row) for row in self.received]

    def merged(self) -> None:
        """Mark the bytes as the merged values."""

    def runs(self, memory: Tensor) -> Weights:
        """Bytes of the span as vectors of numbers, by run."""
        return {key: memory[place].view(dtype) for key, (dtype, _, place) in self._runs.items()}

    def summed(self, anchor: Mapping[str, Tensor]) -> Weights:
        """The anchor's values, for runs that merge by "sum"."""
        return {
            key: torch.cat([anchor[name].reshape(-1)[first:last] for name, first, last, _ in pieces])
            for key, (_, pieces, _) in self._runs.items()
            if self.rules[key] == "sum"
        }


def waves_of(tensors: Weights, rules: Mapping[str, str], size: int) -> list[list[list[Span]]]:
    """Divide tensors into waves of `size` equal shares, made of spans; replica n merges the n-th share of a wave.

    Example:
        >>> [wave] = waves_of({"w": torch.ones(7), "n": torch.tensor(2), "v": torch.ones(2)}, {"n": "max"}, 2)
        >>> [[span.rules for span in share] for share in wave]
        [[{'mean torch.float32': 'mean'}], [{'mean torch.float32': 'mean', 'max torch.int64': 'max'}]]
    """
    ruled = {name: rules.get(name, "mean") for name in tensors}
    alike: dict[tuple[str, torch.dtype], list[str]] = {}
    # Small tensors come first, so that they are adjacent.
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
    """Cut a share into spans: each large piece alone, and the pieces between two large ones together."""

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
