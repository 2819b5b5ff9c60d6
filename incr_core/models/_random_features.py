"""Random features: a fixed nonlinear expansion that a linear answer can be fitted on."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from incr_core._util import at_least_one

__all__ = ["LEVELS", "STEPS", "RandomFeatures"]

LEVELS = 127
"""The largest level of a random feature. A product of two levels has 14 bits, so float32 sums 1,024 of them exactly."""

STEPS = 32.0
"""Levels in a unit of the feature: it is cut off at almost 4."""


class RandomFeatures(nn.Module):
    """Rectified random projections, rounded to whole levels.

        z = scale x P / sqrt(d) + bias b        h = round(32 z), from 0 to 127        P (d, F), b (F) standard normal

    McDonnell et al. 2023, "RanPAC: random projections and pre-trained models for continual learning", section 4.
    Levels are whole numbers in float32, so sums of their products are exact in any order (`RidgeSums`); what rounding
    adds is a noise of 1% of a feature's deviation. They are worked out in float64, so that a row has the same levels in
    whatever batch it comes. That they end keeps a row with wild inputs from outweighing others.
    P and b follow from the seed by a generator whose numbers numpy has promised to keep, so they are in no state.

    inputs: d, of about unit scale. features: F. scale, bias: as in the formula.

    >>> RandomFeatures(3, 5)(torch.randn(2, 3)).shape
    torch.Size([2, 5])
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
        """Levels, (B, F) float32."""
        with torch.autocast(inputs.device.type, enabled=False):
            z = torch.addmm(self.bias.double(), inputs.double(), self.projection.double())
            return (z * STEPS).round_().clamp_(0, LEVELS).float()

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"{self.inputs}, {self.features}"
