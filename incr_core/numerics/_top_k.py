"""Sparse coding: places and values of the numbers with the largest absolute values.

values --encode--> places and codes, as bytes --decode--> values, zero at all other places
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from incr_core.errors import ArgumentError
from incr_core.numerics._blockwise import Blockwise

__all__ = ["TopK"]


class TopK:
    """Encode the k = ceil(share n) numbers with the largest absolute values, in the order of their places.

    A place takes four bytes. A value takes four bytes, or fewer with a dense coding.

    Args:
        share: Share of the numbers that are sent, in (0, 1].
        dense: Coding of their values; None for float32.

    Example:
        >>> coding, values = TopK(0.5, None), torch.tensor([0.1, -3.0, 0.0, 2.0])
        >>> wire = coding.encode(values, torch.empty(coding.nbytes(4), dtype=torch.uint8))
        >>> len(wire), coding.decode(wire, torch.empty(4))
        (16, tensor([ 0., -3.,  0.,  2.]))

    Reference:
        Aji and Heafield (2017, arXiv:1704.05021); Stich et al. (2018, arXiv:1809.07599).
    """

    def __init__(self, share: float, dense: Blockwise | None = None) -> None:
        self.share, self.dense = share, dense

    def kept(self, count: int) -> int:
        """Return the number of values that are sent of `count`."""
        return math.ceil(self.share * count)

    def nbytes(self, count: int) -> int:
        """Return the number of bytes for `count` elements."""
        kept = self.kept(count)
        return 4 * kept + (4 * kept if self.dense is None else self.dense.nbytes(kept))

    def encode(self, values: Tensor, wire: Tensor) -> Tensor:
        """Encode numbers (n,) of float32 into `wire`, (nbytes(n),) of uint8, and return it."""
        kept = self.kept(len(values))
        places = values.abs().topk(kept, sorted=False).indices.sort().values
        wire[: 4 * kept].view(torch.int32).copy_(places)
        if self.dense is None:
            wire[4 * kept :].view(torch.float32).copy_(values[places])
        else:
            self.dense.encode(values[places], wire[4 * kept :])
        return wire

    def decode(self, wire: Tensor, out: Tensor) -> Tensor:
        """Decode `wire` into `out` (n,) of float32, and return it.

        Raises:
            ArgumentError: The places are not ascending or not within 0..n-1. An untrusted sender may send such places.
        """
        kept = self.kept(len(out))
        places = wire[: 4 * kept].view(torch.int32).long()
        ascend = bool((places.diff() > 0).all())
        if kept and not (ascend and int(places[0]) >= 0 and int(places[-1]) < len(out)):
            raise ArgumentError(
                f"top_k: expected {kept:,} ascending places below {len(out):,}, got others; send each place once"
            )
        codes = wire[4 * kept :]
        values = codes.view(torch.float32) if self.dense is None else self.dense.decode(codes, torch.empty(kept))
        out.zero_()[places] = values
        return out
