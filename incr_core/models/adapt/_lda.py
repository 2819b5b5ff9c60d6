"""Streaming linear discriminant analysis as the last layer, without gradients."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from incr_core._util import fraction
from incr_core.models._patterns import replace_head
from incr_core.models.adapt._freeze import head_only

__all__ = ["StreamingLDA", "lda"]


def lda(model: nn.Module, shrinkage: float = 1e-4, frozen: bool = True) -> nn.Module:
    """Replace the last linear layer by `StreamingLDA`; the strategy `slda` updates its statistics.

    Args:
        model: The model.
        shrinkage: From 0 to 1; 1 is the nearest class mean.
        frozen: Whether to freeze all layers below, as recommended: statistics of changing activations are meaningless.

    Example:
        >>> lda(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3)))[1]
        StreamingLDA(in_features=4, out_features=3, bias=True)
    """
    replace_head(model, "lda", lambda last: StreamingLDA(last.in_features, last.out_features, shrinkage))
    return head_only(model) if frozen else model


class StreamingLDA(nn.Linear):
    """A linear layer that classifies by discriminant analysis of all activations added to it.

        counts_c += 1        sums_c += f        second += f f^T                           (float64)
        mu_c = sums_c / counts_c        S = (second - sum_c counts_c mu_c mu_c^T) / sum_c counts_c
        L = ((1 - shrinkage) S + shrinkage I)^-1
        eval:      logit_c = mu_c^T L f - mu_c^T L mu_c / 2, and a very low value for unseen classes
        training:  logits = W f + b, an ordinary layer, so that a learner has trainable weights

    S is the paper's, stored as sums, so that any division of the rows among participants and rounds gives the same
    result to rounding. With shrinkage = 1 this is the nearest class mean. A forward solves one system of F equations.
    Before the first row the layer is linear.

    Args:
        activations: F.
        classes: C.
        shrinkage: From 0 to 1.

    Shapes:
        f: (B, F). counts: (C,). sums: (C, F). second: (F, F).

    Example:
        >>> head = StreamingLDA(1, 2)
        >>> head.add(torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.tensor([0, 0, 1, 1]))
        >>> head.eval()(torch.tensor([[2.9], [3.1]])).argmax(1).tolist()
        [0, 1]

    Reference:
        Hayes & Kanan 2020, "Lifelong machine learning with deep streaming linear discriminant analysis", section 3.
    """

    merge: ClassVar[dict[str, str]] = {"counts": "sum", "sums": "sum", "second": "sum"}

    counts: Tensor
    sums: Tensor
    second: Tensor

    def __init__(self, activations: int, classes: int, shrinkage: float = 1e-4) -> None:
        super().__init__(activations, classes)
        self.shrinkage = fraction("lda.shrinkage", shrinkage)
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(classes, activations, dtype=torch.float64))
        self.register_buffer("second", torch.zeros(activations, activations, dtype=torch.float64))

    @torch.no_grad()
    def add(self, activations: Tensor, targets: Tensor, weights: Tensor | None = None) -> None:
        """Add activations (n, F) of rows with these classes (n,), with weights (n,) or 1 each."""
        activations = activations.double()
        members = F.one_hot(targets, self.out_features).double()
        if weights is not None:
            members = members * weights[:, None]
        self.counts += members.sum(0)
        self.sums += members.t() @ activations
        self.second += (activations * members.sum(1, keepdim=True)).t() @ activations

    def forward(self, activations: Tensor) -> Tensor:
        """Return logits, (B, classes)."""
        linear = super().forward(activations)
        if self.training:
            return linear
        sums = self.sums.double()  # moving the model to float32 has converted them
        means = sums / self.counts.double().clamp(min=1e-300)[:, None]
        scatter = (self.second.double() - sums.t() @ means) / self.counts.sum().clamp(min=1e-300)
        eye = torch.eye(self.in_features, dtype=torch.float64, device=activations.device)
        weight = torch.linalg.solve_ex((1 - self.shrinkage) * scatter + self.shrinkage * eye, means.t())[0]  # (F, C)
        logits = (activations.double() @ weight - (means.t() * weight).sum(0) / 2).to(linear.dtype)
        logits = logits.masked_fill(self.counts == 0, torch.finfo(linear.dtype).min / 2)
        # `where` avoids a synchronisation with the device.
        return torch.where(self.counts.any(), logits, linear)
