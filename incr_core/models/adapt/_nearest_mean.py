"""A last layer that classifies by the nearest class mean."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from incr_core.models._patterns import replace_head

__all__ = ["NearestMean", "nearest_mean"]


def nearest_mean(model: nn.Module, scale: float = 10.0) -> nn.Module:
    """Replace the last linear layer by `NearestMean`, with the same weights; the strategy `icarl` sets the means.

    Args:
        model: The model.
        scale: Half the difference between the logits of the nearest and the farthest possible mean.

    Example:
        >>> nearest_mean(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3)))[1]
        NearestMean(in_features=4, out_features=3, bias=True)
    """

    def make(last: nn.Linear) -> nn.Module:
        head = NearestMean(last.in_features, last.out_features, scale)
        head.load_state_dict(last.state_dict(), strict=False)
        return head

    return replace_head(model, "nearest_mean", make)


class NearestMean(nn.Linear):
    """A linear layer that classifies by the nearest class mean, once means are set.

        training: logits = W f + b
        eval:     logits_c = scale * (m_c . f) / |f|, for classes with a mean; -scale for the others

    If m_c has length one, this is the nearest mean of normalised activations, because |f/|f| - m_c|^2 = 2 - 2 m_c . f /
    |f|. The means are buffers, so a published model predicts with them and does not need the strategy. Without means it
    is a plain linear layer.

    Args:
        activations: Number of activations.
        classes: Number of classes.
        scale: See `nearest_mean`.

    Shapes:
        f: (B, activations). means: (classes, activations). known: (classes,) float, 1 for classes with a mean.

    Example:
        >>> head = NearestMean(2, 2)
        >>> head.tell(torch.eye(2), torch.ones(2))
        >>> head.eval()(torch.tensor([[0.0, 5.0]])).argmax().item()
        1

    Reference:
        Rebuffi et al. 2017, iCaRL, equation 2.
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
        """Set the class means, (classes, activations), for classes with 1 in `known` (classes,); others stay unchanged.

        A participant without rows of a class keeps the mean that it received from others.
        """
        self.means.copy_(torch.where(known[:, None] > 0, F.normalize(means, dim=1), self.means))
        self.known.copy_(torch.maximum(known, self.known))

    def forward(self, activations: Tensor) -> Tensor:
        """Return logits, (B, classes)."""
        if self.training:
            return super().forward(activations)
        # The mean of several participants' unit vectors is shorter than one, so it is normalised again.
        near = F.normalize(activations, dim=-1) @ F.normalize(self.means, dim=1).to(activations.dtype).t()
        near = self.scale * torch.where(self.known > 0, near, -1.0)
        # `where` avoids a synchronisation with the device; before the first mean this is a plain layer.
        return torch.where(self.known.any(), near, super().forward(activations))
