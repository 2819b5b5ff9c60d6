"""Quantisation-aware layers as ONNX has them: with its operators QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.onnx.ops import symbolic

from incr_core.models import quantised
from incr_core.models.adapt import ActivationRange, QuantisedLayer

__all__ = ["OPSET", "use_onnx_quantisation"]

OPSET = 20
"""The version of ONNX's operators: the first in which all that is used has one form in torch's exporter."""


def use_onnx_quantisation(model: nn.Module, *, int8: bool) -> None:
    """Replace quantisation-aware layers by layers of ONNX's operators, which compute the same values."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, QuantisedLayer):
            place, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(place), attribute, OnnxQuantisedLayer(layer, int8=int8))


class OnnxQuantisedLayer(nn.Module):
    """A quantisation-aware layer with ONNX's operators QuantizeLinear and DequantizeLinear; it can only be traced.

    Args:
        layer: The layer, whose weight is folded.
        int8: Whether to hold the weight in int8.
    """

    scale: Tensor
    zero: Tensor
    weight: Tensor
    weight_scale: Tensor
    weight_zero: Tensor

    def __init__(self, layer: QuantisedLayer, *, int8: bool) -> None:
        super().__init__()
        assert isinstance(layer.base, nn.Linear)
        assert isinstance(layer.inputs, ActivationRange)
        self.bias, self.int8 = layer.base.bias, int8
        scale, zero, known = layer.inputs.steps()
        self.known = bool(known)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero.to(torch.uint8))
        whole, steps = quantised(layer.base.weight.detach())
        self.register_buffer("weight", whole if int8 else layer.base.weight.detach())
        self.register_buffer("weight_scale", steps[:, 0])
        self.register_buffer("weight_zero", torch.zeros(len(whole), dtype=torch.int8))

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        weight = self.weight
        if self.known:
            steps = symbolic(
                "QuantizeLinear", (inputs, self.scale, self.zero), dtype=torch.uint8, shape=inputs.shape, version=OPSET
            )
            inputs = symbolic(
                "DequantizeLinear",
                (steps, self.scale, self.zero),
                dtype=torch.float32,
                shape=inputs.shape,
                version=OPSET,
            )
        if self.int8:
            weight = symbolic(
                "DequantizeLinear",
                (weight, self.weight_scale, self.weight_zero),
                attrs={"axis": 0},
                dtype=torch.float32,
                shape=weight.shape,
                version=OPSET,
            )
        return F.linear(inputs, weight, self.bias)
