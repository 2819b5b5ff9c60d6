"""Text columns in tables: embeddings of words, summed over each text."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

__all__ = ["TextBag"]

DEEP, WIDE = 3.0, 24.0
"""Factors on the two parts. A word occurs in few steps, in each of which Adam moves a weight by its learning rate:
without the factors a stream would end before word weights are significant. They were tuned on docstrings of eight
libraries (classified by library) and on synthetic reviews, where 3 and 24 with one pass exceed a logistic regression.
"""

MOST_WIDE = 64
"""Maximum number of outputs for which words have a weight per output."""

AT_ONCE = 1 << 20
"""Maximum number of words looked up at once."""


class TextBag(nn.Module):
    """Sums over the n words and pairs of each text, as input of the layers (deep) and as part of the output (wide).

        deep = 3 sum_w E[w] / sqrt(n)      wide = 24 sum_w L[w] / sqrt(n), over all texts of a row

    L, a linear model over words, starts at 0. E and L are columns of one weight (buckets, E + outputs), whose row 0
    (padding) is zero. Words are known only by their buckets, so the weights merge like all others.

    Args:
        columns: Text columns per row.
        buckets: Hash buckets.
        embedding: E.
        outputs: Outputs of the model.

    Example:
        >>> bag = TextBag(columns=1, buckets=100, embedding=4, outputs=1)
        >>> deep, wide = bag(torch.tensor([[[5, 7, 0]], [[0, 0, 0]]], dtype=torch.int32))
        >>> deep.shape, wide.shape, deep[1].abs().sum()
        (torch.Size([2, 4]), torch.Size([2, 1]), tensor(0., grad_fn=<SumBackward0>))
    """

    draws_nothing: ClassVar[bool] = True

    def __init__(self, columns: int, buckets: int, embedding: int, outputs: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.outputs = outputs if outputs <= MOST_WIDE else 0
        self.width = columns * embedding
        self.words = nn.Embedding(buckets, embedding + self.outputs, padding_idx=0)
        with torch.no_grad():
            self.words.weight.zero_()
            nn.init.normal_(self.words.weight[1:, :embedding], std=0.1 / DEEP)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return deep (B, T E) and wide (B, outputs) for the buckets (B, T, slots) of T texts."""
        there = text > 0
        step = max(1, AT_ONCE // max(1, text.shape[0] * text.shape[1]))
        parts = [
            (self.words(slots) * seen.unsqueeze(-1)).sum(2)
            for slots, seen in zip(torch.split(text, step, 2), torch.split(there, step, 2), strict=True)
        ]
        total = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
        total = total * there.sum(2, keepdim=True).clamp(min=1).to(total.dtype).rsqrt()
        deep = DEEP * total[..., : self.embedding].flatten(1)
        return deep, WIDE * total[..., self.embedding :].sum(1) if self.outputs else None
