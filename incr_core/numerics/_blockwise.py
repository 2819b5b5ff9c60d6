"""Blockwise quantisation to one or two bytes per number, for transfer over slow connections.

values --encode--> scales and codes, as bytes --decode--> values, rounded
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["Blockwise"]

BLOCK = 256
"""Number of elements that share a scale: its four bytes add a sixty-fourth to codes of one byte."""

CHUNK = 1 << 16
"""Number of elements processed at a time, a multiple of `BLOCK` that fits the processor's cache."""

LEAST = 2.0**-100
"""Blocks whose largest absolute value is smaller are rounded to zero: their steps could be denormals, which are
flushed.
"""


class Blockwise:
    """Encode numbers as fractions of the largest absolute value of their block.

        s = max |x| over the block        int8: c = round(127 x / s), decoded (s / 127) c
                                          float16: c = half(x / s), decoded s c

    Zero stays zero. The error is at most s / 254 with int8, and the larger of |x| / 2048 and s / 2^25 with float16. A
    block with a non-finite number decodes to non-finite numbers only.

    Args:
        code: torch.int8 or torch.float16.

    Example:
        >>> coding = Blockwise(torch.int8)
        >>> wire = torch.empty(coding.nbytes(4), dtype=torch.uint8)
        >>> wire = coding.encode(torch.tensor([127.0, 1.4, -0.6, 0.0]), wire)
        >>> len(wire), coding.decode(wire, torch.empty(4))
        (8, tensor([127.,   1.,  -1.,   0.]))
    """

    def __init__(self, code: torch.dtype) -> None:
        self.code = code
        self._largest = 127.0 if code is torch.int8 else 1.0

    def nbytes(self, count: int) -> int:
        """Return the number of bytes for `count` elements."""
        return -(-count // BLOCK) * 4 + count * self.code.itemsize

    def encode(self, values: Tensor, wire: Tensor) -> Tensor:
        """Encode numbers (n,) of float32 into `wire`, (nbytes(n),) of uint8, and return it."""
        for chunk, steps, codes in self._chunks(values, wire):
            largest = chunk.abs().amax(1)
            torch.div(largest.masked_fill_(largest < LEAST, 0.0), self._largest, out=steps)
            inverse = steps.reciprocal().masked_fill_(steps == 0, 0.0)
            shares = chunk * inverse[:, None]
            codes.copy_(shares.round_() if self.code is torch.int8 else shares)
        return wire

    def decode(self, wire: Tensor, out: Tensor) -> Tensor:
        """Decode `wire` into `out` (n,) of float32, and return it."""
        for chunk, steps, codes in self._chunks(out, wire):
            torch.mul(codes, steps[:, None], out=chunk)
        return out

    def _chunks(self, values: Tensor, wire: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield values in whole blocks (b, BLOCK) with their steps (b,) and codes (b, BLOCK), then the remainder."""
        count = len(values)
        blocks = -(-count // BLOCK)
        steps, codes = wire[: 4 * blocks].view(torch.float32), wire[4 * blocks :].view(self.code)
        whole = count - count % BLOCK
        for start, stop in (*((at, min(at + CHUNK, whole)) for at in range(0, whole, CHUNK)), (whole, count)):
            if start < stop:
                width = min(BLOCK, stop - start)
                place = slice(start // BLOCK, -(-stop // BLOCK))
                yield values[start:stop].view(-1, width), steps[place], codes[start:stop].view(-1, width)
