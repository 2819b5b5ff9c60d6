"""The built-in model for token sequences: causal convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TokenCNN"]

KERNEL = 3


class TokenCNN(nn.Module):
    """Embeds tokens, and applies causal convolutions.

        h_t^(k) = relu(sum_j W_j^(k) h_(t - j d)^(k-1) + b^(k)),  j = 0, 1, 2,  d = 2^(k-1)

    K layers have a receptive field of 1 + 2 (2^K - 1) tokens. There are no skip connections, unlike in the paper.

    Args:
        vocabulary: Number of tokens.
        hidden: Channels of the layers.
        embedding: Embedding dimension.
        dropout: Dropout probability of hidden units.

    Example:
        >>> import torch
        >>> model = TokenCNN(vocabulary=10, hidden=[8, 8])
        >>> model(torch.zeros(2, 5, dtype=torch.int64)).shape
        torch.Size([2, 5, 10])

    Reference:
        Bai et al. 2018, "An empirical evaluation of generic convolutional and recurrent networks for sequence modeling"
        (arXiv 1803.01271), section 3.
    """

    def __init__(
        self, vocabulary: int, hidden: Sequence[int] = (128, 64), embedding: int = 8, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        widths = [embedding, *hidden]
        self.layers = nn.ModuleList(
            nn.Conv1d(before, after, KERNEL, dilation=2**depth)
            for depth, (before, after) in enumerate(pairwise(widths))
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], vocabulary)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits of the token after each place, (B, T, vocabulary)."""
        found: Tensor = self.embedding(inputs).transpose(1, 2)
        for depth, layer in enumerate(self.layers):
            found = self.dropout(F.relu(layer(F.pad(found, ((KERNEL - 1) * 2**depth, 0)))))
        logits: Tensor = self.head(found.transpose(1, 2))
        return logits
