"""Quantisation-aware training: layers that learn with weights and inputs of eight bits."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from incr_core._util import fraction
from incr_core.errors import ArgumentError
from incr_core.models._derived import Derived
from incr_core.models._patterns import Patterns, modules_matching, replace_module

__all__ = ["ActivationRange", "QuantisedLayer", "RoundedWeight", "qat"]

# The modules of torch.ao compute the same values by the same operators. They keep a range in several buffers, of which
# some have no mean over participants, such as an infinite minimum or a flag.


def qat(model: nn.Module, target: Patterns = "*", rate: float = 0.01) -> nn.Module:
    """Let linear layers learn with the rounding errors that `incr export --quantize int8` will cause.

        y = R(W) Q(x) + b
        R: int8, with a scale for each output       R(w) = s round(w / s),  s = max |w| / 127
        Q: uint8, with one scale for each layer     Q(x) = s (clamp(round(x / s) + z, 0, 255) - z)
                                                    s = (high - low) / 255,  z = round(-low / s)

    Gradients pass through the rounding unchanged, and are 0 for inputs outside of [low, high]. `low` and `high` follow
    the smallest and the largest input of each training batch by a moving average. They are a buffer of the model: it
    is saved, and those of participants merge as the mean by rows. Weights remain float during learning.

    Args:
        model: The model. Prune it first, if at all; zeros stay zeros.
        target: Patterns of names of nn.Linear modules. The output projection of nn.MultiheadAttention is skipped,
            because its weight is used without a call of it.
        rate: Rate of the moving average, per training batch.

    Example:
        >>> model = qat(nn.Sequential(nn.Linear(3, 2)))
        >>> _ = model(torch.tensor([[0.0, 1.0, 2.55]]))
        >>> model.eval()[0].inputs(torch.tensor([0.016, 9.0])).tolist()
        [0.019999999552965164, 2.549999952316284]

    Reference:
        Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
        inference", section 3.
    """
    fraction("qat.rate", rate)
    found = modules_matching(model, target, (nn.Linear,), "qat.target")
    layers = [(name, layer) for name, layer in found if not isinstance(layer, NonDynamicallyQuantizableLinear)]
    if not layers:
        raise ArgumentError(
            f"qat.target: expected layers that are called, got {found[0][0]}, whose weight nn.MultiheadAttention "
            "uses itself; choose another pattern"
        )
    for name, layer in layers:
        parametrize.register_parametrization(layer, "weight", RoundedWeight())
        weight = layer.weight
        assert isinstance(weight, Tensor)
        replace_module(model, name, QuantisedLayer(layer, ActivationRange(rate).to(weight.device)))
    return model


class RoundedWeight(nn.Module):
    """Rounds a weight to int8, with a scale for each output; the gradient passes unchanged. See `qat`.

    Example:
        >>> RoundedWeight()(torch.tensor([[1.27, 0.014]]))
        tensor([[1.2700, 0.0100]])
    """

    draws_nothing: ClassVar[bool] = True

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded weight, in the shape of the weight (out, in)."""
        # As in `models.quantised`; a row of zeros has a tiny scale instead of 0.
        scale = (torch.linalg.vector_norm(weight.detach(), torch.inf, dim=1) / 127).clamp(min=1e-30).float()
        zero = torch.zeros(len(scale), dtype=torch.int32, device=scale.device)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


class ActivationRange(nn.Module):
    """Rounds a layer's inputs to uint8, over the range that they have had in training; see `qat`.

    Before the first training batch inputs pass unchanged.

    Attributes:
        ends: `low` and `high`, (2,): low is at most 0 and high at least 0, so that 0 has a step.

    Example:
        >>> inputs = ActivationRange()
        >>> _ = inputs(torch.tensor([-1.0, 1.55]))
        >>> inputs.ends
        tensor([-1.0000,  1.5500])
    """

    draws_nothing: ClassVar[bool] = True

    ends: Tensor

    def __init__(self, rate: float = 0.01) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("ends", torch.zeros(2))
        self._steps = Derived[tuple[Tensor, Tensor, Tensor]]()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the rounded inputs, of any shape."""
        if self.training and inputs.numel():
            self._follow(inputs.detach())
        scale, zero, known = self.steps()
        rounded = torch.fake_quantize_per_tensor_affine(inputs, scale, zero, 0, 255)
        return torch.where(known, rounded, inputs)

    def steps(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scale, the zero point (int32), and whether there is a range yet; three scalars."""
        return self._steps.of(self.ends, self._divided)

    def _divided(self) -> tuple[Tensor, Tensor, Tensor]:
        low, high = self.ends.float().unbind()
        known = high > low
        scale = torch.where(known, (high - low) / 255, 1.0)
        return scale, (-low / scale).round().int(), known

    @torch.no_grad()
    def _follow(self, inputs: Tensor) -> None:
        ends = torch.stack(inputs.aminmax()).to(self.ends.dtype)
        ends[0].clamp_(max=0.0)
        ends[1].clamp_(min=0.0)
        rate = torch.where(self.ends[1] > self.ends[0], self.rate, 1.0)  # the first batch sets the range
        self.ends.lerp_(ends, rate)


class QuantisedLayer(nn.Module):
    """A linear layer whose weight and inputs are rounded; see `qat`. Inputs (..., in), output (..., out).

    Args:
        base: The layer, with a rounded weight.
        inputs: Rounds the inputs.
    """

    draws_nothing: ClassVar[bool] = True

    def __init__(self, base: nn.Module, inputs: ActivationRange) -> None:
        super().__init__()
        self.inputs: nn.Module = inputs
        self.base = base

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's output."""
        output: Tensor = self.base(self.inputs(inputs))
        return output
