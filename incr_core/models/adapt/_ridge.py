"""A last layer in closed form: ridge regression on random features."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from incr_core.models._mlp import TableMLP
from incr_core.models._patterns import replace_head
from incr_core.models._random_features import RandomFeatures

__all__ = ["RidgeHead", "ridge"]


def ridge(model: nn.Module, features: int = 2000, seed: int = 0, scale: float = 1.0, bias: float = 1.0) -> nn.Module:
    """Freeze a model, and replace its last linear layer by `RidgeHead`, which the strategy `Ridge` fits.

    All other layers stay fixed, because sums over changing activations would be meaningless. The built-in model for
    tables works best without hidden layers. It then keeps the scale of numbers from the first increment, and draws
    larger embeddings of categories, which are not trained.

    Args:
        model: The model.
        features: As for `RandomFeatures`.
        seed: As for `RandomFeatures`.
        scale: As for `RandomFeatures`.
        bias: As for `RandomFeatures`.

    Example:
        >>> ridge(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3)), features=50)[1]
        RidgeHead(
          (features): RandomFeatures(4, 50)
        )
    """
    replace_head(
        model, "ridge", lambda last: RidgeHead(last.in_features, last.out_features, features, seed, scale, bias)
    )
    if isinstance(model, TableMLP):
        model.settles = True
        if model.embedding is not None:
            nn.init.normal_(model.embedding.weight, std=0.5**0.5)
    return model.requires_grad_(False)


class RidgeHead(nn.Module):
    """Random features h and a linear layer on them: h(f) W + b.

    Shapes:
        f, the input from the layers below: (B, d). W: (F, outputs). b: (outputs). W and b are zero until `Ridge` solves
            them.

    Example:
        >>> RidgeHead(3, 2, features=10)(torch.randn(4, 3)).shape
        torch.Size([4, 2])
    """

    draws_nothing: ClassVar[bool] = True

    ridge_weight: Tensor
    ridge_bias: Tensor

    def __init__(
        self, inputs: int, outputs: int, features: int = 2000, seed: int = 0, scale: float = 1.0, bias: float = 1.0
    ) -> None:
        super().__init__()
        self.features = RandomFeatures(inputs, features, seed, scale, bias)
        self.register_buffer("ridge_weight", torch.zeros(features, outputs))
        self.register_buffer("ridge_bias", torch.zeros(outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, or a standardised value, (B, outputs)."""
        with torch.autocast(inputs.device.type, enabled=False):
            levels: Tensor = self.features(inputs)
            return F.linear(levels.to(self.ridge_weight.dtype), self.ridge_weight.t(), self.ridge_bias)
