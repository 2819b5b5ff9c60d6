"""Linear layers with weights of eight bits."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from incr_core.errors import JobError
from incr_core.models import dequantised, quantised
from incr_core.models.adapt import ActivationRange, QuantisedLayer

__all__ = ["Int8Linear", "fix_ranges", "is_quantisation_aware", "quantise_linear"]


class Int8Linear(nn.Module):
    """An `nn.Linear` that keeps its weight as int8; what it computes is float.

    >>> import torch
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


def is_quantisation_aware(model: nn.Module) -> bool:
    """Whether layers of a model have learned with inputs and weights of eight bits.

    >>> is_quantisation_aware(nn.Linear(1, 1))
    False
    """
    return any(isinstance(part, QuantisedLayer) for part in model.modules())


class FixedRange(nn.Module):
    """An `ActivationRange` that no longer follows its inputs, of operators that torch.export can trace.

    >>> import torch
    >>> from incr_core.models.adapt import ActivationRange
    >>> inputs = ActivationRange()
    >>> x = torch.randn(50)
    >>> bool((FixedRange(inputs)(x) == x).all()), bool((inputs(x) == FixedRange(inputs)(x)).all())
    (True, True)
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, inputs: ActivationRange) -> None:
        super().__init__()
        scale, zero, known = inputs.steps()
        self.known = bool(known)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)

    def forward(self, inputs: Tensor) -> Tensor:
        """Of any shape."""
        if not self.known:
            return inputs
        steps = (inputs * (1.0 / self.scale)).round() + self.zero
        return (steps.clamp(0, 255) - self.zero) * self.scale


def fix_ranges(model: nn.Module) -> None:
    """Replace the ranges of quantisation-aware layers, so that the model can be traced."""
    for layer in model.modules():
        if isinstance(layer, QuantisedLayer):
            assert isinstance(layer.inputs, ActivationRange)
            layer.inputs = FixedRange(layer.inputs)
