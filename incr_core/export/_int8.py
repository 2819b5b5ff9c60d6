"""Linear layers with weights of eight bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from incr_core.errors import JobError

__all__ = ["Int8Linear", "dequantised", "quantise_linear", "quantised"]


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight (out, in) as int8, and the scale (out, 1) of each row: weight = int8 * scale, to half a step.

    Each row has its own scale, |w|_max / 127, so one large row does not coarsen the others; zero stays zero.

    >>> whole, scale = quantised(torch.tensor([[0.0, 1.27], [0.0, 0.0]]))
    >>> whole, bool(dequantised(whole, scale)[0, 1].isclose(torch.tensor(1.27)))
    (tensor([[  0, 127],
            [  0,   0]], dtype=torch.int8), True)
    """
    scale = weight.abs().amax(1, keepdim=True) / 127
    steps = (weight / torch.where(scale > 0, scale, 1.0)).round()
    return steps.clamp(-127, 127).to(torch.int8), scale


def dequantised(whole: Tensor, scale: Tensor) -> Tensor:
    """The weight that `quantised` made these of, to half a step.

    >>> dequantised(torch.tensor([[2]], dtype=torch.int8), torch.tensor([[0.5]]))
    tensor([[1.]])
    """
    return whole.to(scale.dtype) * scale


class Int8Linear(nn.Module):
    """An `nn.Linear` that keeps its weight as int8; what it computes is float.

    >>> layer = nn.Linear(3, 2)
    >>> x = torch.randn(5, 3); bool((Int8Linear(layer)(x) - layer(x)).abs().max() < 0.1)
    True
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        whole, scale = quantised(layer.weight.detach())
        self.register_buffer("weight", whole)
        self.register_buffer("weight_scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return F.linear(inputs, dequantised(self.weight, self.weight_scale), self.bias)


def quantise_linear(model: nn.Module) -> list[str]:
    """Put an `Int8Linear` in the place of every `nn.Linear` of a model; returns their names.

    JobError where there is none.

    >>> quantise_linear(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    ['0']
    """
    found = {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear}
    if not found or "" in found:
        raise JobError(
            "quantize: expected a model with nn.Linear layers inside, of which int8 makes smaller ones, got "
            f"{type(model).__name__}; leave --quantize out"
        )
    for name, layer in found.items():
        place, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(place), attribute, Int8Linear(layer))
    return list(found)
