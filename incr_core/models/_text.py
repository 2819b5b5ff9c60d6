"""Texts in a table: the words of each, looked up in one table of weights and summed."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

__all__ = ["TextBag"]

DEEP, WIDE = 3.0, 24.0
"""Factors of the two parts. A word is met in few steps, in each of which Adam moves a weight by its rate: without the
factors a stream is over before its words have said anything. Chosen on docstrings of eight libraries (of which is it?)
and on made-up reviews, where at 3 and 24 one pass is better than a logistic regression's."""

MOST_WIDE = 64
"""Of more outputs than this, words have no weight for each."""

AT_ONCE = 1 << 20
"""Words looked up at a time: of many rows, a few words of each."""


class TextBag(nn.Module):
    """Sums over the n words and pairs of each text, for the layers behind it (deep) and for the output itself (wide).

    deep = 3 sum_w E[w] / sqrt(n)      wide = 24 sum_w L[w] / sqrt(n), over all texts of a row

    L, a linear model over words, starts at 0. Both are columns of one weight (buckets, E + outputs), whose row 0, of
    no word, counts nothing. Nothing is known of words but their buckets, so weights merge as all weights do.

    columns: how many texts a row has. embedding: E. outputs: of the model.

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
        """deep (B, T E) and wide (B, outputs) of the buckets (B, T, slots) of T texts."""
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
