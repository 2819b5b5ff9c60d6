"""Weights of eight bits."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["dequantised", "quantised"]


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight (out, in) as int8, and the scale (out, 1) of each row.

        scale_i = max_j |w_ij| / 127        int8_ij = round(w_ij / scale_i)

    Each row has its scale, so that one large row does not coarsen the others. Zero stays zero.

    Example:
        >>> whole, scale = quantised(torch.tensor([[0.0, 1.27], [0.0, 0.0]]))
        >>> whole, bool(dequantised(whole, scale)[0, 1].isclose(torch.tensor(1.27)))
        (tensor([[  0, 127],
                [  0,   0]], dtype=torch.int8), True)
    """
    scale = weight.abs().amax(1, keepdim=True) / 127
    steps = (weight / torch.where(scale > 0, scale, 1.0)).round()
    return steps.clamp(-127, 127).to(torch.int8), scale


def dequantised(whole: Tensor, scale: Tensor) -> Tensor:
    """Return the weight of `quantised`, to half a step.

    Example:
        >>> dequantised(torch.tensor([[2]], dtype=torch.int8), torch.tensor([[0.5]]))
        tensor([[1.]])
    """
    return whole.to(scale.dtype) * scale
