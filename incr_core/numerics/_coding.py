"""Codings of float32 numbers for slow connections, and error feedback.

    dense       code(x)                                 `Blockwise`
    sparse      places and values of the largest |x|    `TopK`

Error feedback: the error of a coding is added to the numbers that are coded next.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from incr_core.numerics._blockwise import Blockwise
from incr_core.numerics._top_k import TopK

__all__ = ["WIRES", "Coding", "coding_of", "encode_with_feedback", "roundable"]

WIRES = {"float16": torch.float16, "int8": torch.int8}
"""Name of a narrow wire -> dtype of its codes."""


class Coding(Protocol):
    """A coding of vectors of float32 numbers into a number of bytes that depends on their length alone."""

    def nbytes(self, count: int) -> int:
        """Return the number of bytes for `count` elements."""

    def encode(self, values: Tensor, wire: Tensor) -> Tensor:
        """Encode numbers (n,) of float32 into `wire`, (nbytes(n),) of uint8, and return it."""

    def decode(self, wire: Tensor, out: Tensor) -> Tensor:
        """Decode `wire` into `out` (n,) of float32, and return it."""


def coding_of(wire: str, top_k: float | None = None) -> Coding | None:
    """Return the coding of a wire; None if numbers travel unchanged.

    Args:
        wire: "float32", "float16" or "int8".
        top_k: Share of the numbers that are sent, those with the largest absolute values; None sends all.

    Example:
        >>> [coding.nbytes(10_000) for coding in (coding_of("int8"), coding_of("float32", 0.01)) if coding]
        [10160, 800]
    """
    dense = Blockwise(WIRES[wire]) if wire in WIRES else None
    return dense if top_k is None else TopK(top_k, dense)


def roundable(wire: str) -> frozenset[torch.dtype]:
    """Return the dtypes of weights that a wire rounds: those that it makes smaller, of at most 32 bits.

    Example:
        >>> sorted(map(str, roundable("float16"))), len(roundable("int8")), len(roundable("float32"))
        (['torch.float32'], 3, 0)
    """
    kinds = torch.float32, torch.bfloat16, torch.float16
    return frozenset(kind for kind in kinds if wire in WIRES and kind.itemsize > WIRES[wire].itemsize)


@torch.no_grad()
def encode_with_feedback(
    coding: Coding, values: Tensor, places: list[Tensor], left: list[Tensor], wire: Tensor
) -> Tensor:
    """Encode numbers plus the error of earlier codings, and keep the new error.

        x = values + e        wire = code(x)        values <- decode(wire)        e <- x - values

    Over many rounds nothing is lost but the last e.

    Args:
        coding: The coding.
        values: The numbers, (n,) float32; they become the decoded ones.
        places: Views of `values`, one for each tensor of `left`.
        left: The errors e, changed in place.
        wire: (nbytes(n),) of uint8, where the codes are written.

    Returns:
        The codes.

    Example:
        >>> values, left, wire = torch.tensor([127.0, 0.4]), torch.zeros(2), torch.empty(6, dtype=torch.uint8)
        >>> _ = encode_with_feedback(Blockwise(torch.int8), values, [values], [left], wire)
        >>> values, left
        (tensor([127.,   0.]), tensor([0.0000, 0.4000]))

    Reference:
        Seide et al. (2014), 1-Bit Stochastic Gradient Descent; Stich et al. (2018, arXiv:1809.07599); Karimireddy et
        al. (2019, arXiv:1901.09847).
    """
    torch._foreach_add_(places, left)
    torch._foreach_copy_(left, places)
    coding.encode(values, wire)
    coding.decode(wire, values)
    torch._foreach_sub_(left, places)
    return wire
