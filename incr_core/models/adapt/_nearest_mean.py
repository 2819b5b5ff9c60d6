"""A last layer that answers by the nearest class mean."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from incr_core.models._patterns import replace_head

__all__ = ["NearestMean", "nearest_mean"]


def nearest_mean(model: nn.Module, scale: float = 10.0) -> nn.Module:
    """Replace the last linear layer by `NearestMean`, with the same weights; the strategy `icarl` tells it the means.

    scale: how far apart the logits of the nearest and the farthest mean are, halved.

    >>> nearest_mean(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3)))[1]
    NearestMean(in_features=4, out_features=3, bias=True)
    """

    def make(last: nn.Linear) -> nn.Module:
        head = NearestMean(last.in_features, last.out_features, scale)
        head.load_state_dict(last.state_dict(), strict=False)
        return head

    return replace_head(model, "nearest_mean", make)


class NearestMean(nn.Linear):
    """A linear layer that answers by the nearest class mean, once it has been told the means.

        training: logits = W f + b
        eval:     logits_c = scale * (m_c . f) / |f|, for classes with a mean; -scale for the others

    With m_c of length one this is the nearest mean of normalised activations (Rebuffi et al. 2017, iCaRL, equation 2),
    since |f/|f| - m_c|^2 = 2 - 2 m_c . f / |f|. The means are buffers, so a published model predicts with them and
    needs no strategy beside it. Where no mean is known it is a plain linear layer.

    f: (B, activations); means: (classes, activations); known: (classes,) float, 1 where the class has a mean.

    >>> head = NearestMean(2, 2)
    >>> head.tell(torch.eye(2), torch.ones(2))
    >>> head.eval()(torch.tensor([[0.0, 5.0]])).argmax().item()
    1
    """

    merge: ClassVar[dict[str, str]] = {"means": "average", "known": "max"}

    means: Tensor
    known: Tensor

    def __init__(self, activations: int, classes: int, scale: float = 10.0) -> None:
        super().__init__(activations, classes)
        self.scale = scale
        self.register_buffer("means", torch.zeros(classes, activations))
        self.register_buffer("known", torch.zeros(classes))

    @torch.no_grad()
    def tell(self, means: Tensor, known: Tensor) -> None:
        """Set the class means, (classes, activations), of which `known` (classes,) says 1; the others stay as they are.

        A participant that holds no row of a class knows its mean from the others.
        """
        self.means.copy_(torch.where(known[:, None] > 0, F.normalize(means, dim=1), self.means))
        self.known.copy_(torch.maximum(known, self.known))

    def forward(self, activations: Tensor) -> Tensor:
        """Logits, (B, classes)."""
        if self.training:
            return super().forward(activations)
        # The mean of several participants' means is shorter than theirs.
        near = F.normalize(activations, dim=-1) @ F.normalize(self.means, dim=1).to(activations.dtype).t()
        near = self.scale * torch.where(self.known > 0, near, -1.0)
        # Chosen without asking the device: a plain layer until the first mean is known.
        return torch.where(self.known.any(), near, super().forward(activations))
