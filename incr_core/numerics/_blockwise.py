"""Numbers rounded to one byte or two, block by block: what travels where a wire is narrower than the arithmetic.

values --encode--> scales and codes, as bytes --decode--> values, rounded
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["Blockwise"]

BLOCK = 256
"""Numbers that share a scale: four bytes of it add a sixty-fourth to codes of one byte."""

CHUNK = 1 << 16
"""Numbers that are worked on at one time, a multiple of `BLOCK`: few enough for a processor's cache."""

LEAST = 2.0**-100
"""Blocks whose largest number is smaller are rounded to zero: their steps could be denormals, which count as zero."""


class Blockwise:
    """Code numbers as shares of the largest of their block.

        s = max |x| over the block        int8: c = round(127 x / s), decoded (s / 127) c
                                          float16: c = half(x / s), decoded s c

    Zero stays zero. An error is at most s / 254 with int8; with float16 the larger of |x| / 2048 and s / 2^25. A block
    with a number that is not finite has none left.

    code: torch.int8 or torch.float16.

    >>> coding = Blockwise(torch.int8)
    >>> wire = coding.encode(torch.tensor([127.0, 1.4, -0.6, 0.0]), torch.empty(coding.nbytes(4), dtype=torch.uint8))
    >>> len(wire), coding.decode(wire, torch.empty(4))
    (8, tensor([127.,   1.,  -1.,   0.]))
    """

    def __init__(self, code: torch.dtype) -> None:
        self.code = code
        self._largest = 127.0 if code is torch.int8 else 1.0

    def nbytes(self, count: int) -> int:
        """How many bytes so many numbers take."""
        return -(-count // BLOCK) * 4 + count * self.code.itemsize

    def encode(self, values: Tensor, wire: Tensor) -> Tensor:
        """Code numbers (n,) of float32 in `wire`, (nbytes(n),) of uint8, which is returned."""
        for chunk, steps, codes in self._chunks(values, wire):
            largest = chunk.abs().amax(1)
            torch.div(largest.masked_fill_(largest < LEAST, 0.0), self._largest, out=steps)
            inverse = steps.reciprocal().masked_fill_(steps == 0, 0.0)
            shares = chunk * inverse[:, None]
            codes.copy_(shares.round_() if self.code is torch.int8 else shares)
        return wire

    def decode(self, wire: Tensor, out: Tensor) -> Tensor:
        """The numbers that `encode` coded in `wire`, into `out` (n,) of float32, which is returned."""
        for chunk, steps, codes in self._chunks(out, wire):
            torch.mul(codes, steps[:, None], out=chunk)
        return out

    def _chunks(self, values: Tensor, wire: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Numbers in whole blocks (b, BLOCK), with their steps (b,) and codes (b, BLOCK); then what is left over."""
        count = len(values)
        blocks = -(-count // BLOCK)
        steps, codes = wire[: 4 * blocks].view(torch.float32), wire[4 * blocks :].view(self.code)
        whole = count - count % BLOCK
        for start, stop in (*((at, min(at + CHUNK, whole)) for at in range(0, whole, CHUNK)), (whole, count)):
            if start < stop:
                width = min(BLOCK, stop - start)
                place = slice(start // BLOCK, -(-stop // BLOCK))
                yield values[start:stop].view(-1, width), steps[place], codes[start:stop].view(-1, width)
