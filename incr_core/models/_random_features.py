"""Random features: a fixed nonlinear expansion for fitting a linear model."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from incr_core._util import at_least_one

__all__ = ["LEVELS", "STEPS", "RandomFeatures"]

LEVELS = 127
"""Maximum level of a random feature. A product of two levels has 14 bits, so float32 sums 1,024 of them exactly."""

STEPS = 32.0
"""Levels per unit of the feature, which is clipped at almost 4."""


class RandomFeatures(nn.Module):
    """Rectified random projections, rounded to integer levels.

        z = scale x P / sqrt(d) + bias b        h = round(32 z), from 0 to 127        P (d, F), b (F) standard normal

    Levels are integers in float32, so sums of their products are exact in any order (`RidgeSums`). Rounding adds noise
    of 1% of a feature's deviation. Levels are computed in float64, so that a row has the same levels in any batch. The
    upper bound prevents rows with extreme inputs from dominating. P and b are generated from the seed by a generator
    whose numbers numpy guarantees, so they are not part of the state.

    Args:
        inputs: d; inputs should have about unit scale.
        features: F.
        seed: Seed of P and b.
        scale: Factor in the formula.
        bias: Factor in the formula.

    Example:
        >>> RandomFeatures(3, 5)(torch.randn(2, 3)).shape
        torch.Size([2, 5])

    Reference:
        McDonnell et al. 2023, "RanPAC: random projections and pre-trained models for continual learning", section 4.
    """

    draws_nothing: ClassVar[bool] = True
    projection: Tensor
    bias: Tensor

    def __init__(self, inputs: int, features: int = 2000, seed: int = 0, scale: float = 1.0, bias: float = 1.0) -> None:
        super().__init__()
        self.inputs, self.features = inputs, at_least_one("ridge.features", features)
        drawn = np.random.RandomState(seed).standard_normal((inputs + 1, features))
        self.register_buffer("projection", torch.from_numpy(drawn[:-1] * scale / inputs**0.5), persistent=False)
        self.register_buffer("bias", torch.from_numpy(drawn[-1] * bias), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return levels, (B, F) float32."""
        with torch.autocast(inputs.device.type, enabled=False):
            z = torch.addmm(self.bias.double(), inputs.double(), self.projection.double())
            return (z * STEPS).round_().clamp_(0, LEVELS).float()

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.inputs}, {self.features}"
