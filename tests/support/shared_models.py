"""Models that hold a module, a weight or a buffer in several places."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from incr_core.models import TableShape


class Norm(nn.Module):
    """Keeps the largest number of rows seen, a running mean, and a sum of rows that the job would add up."""

    merge: ClassVar[dict[str, str]] = {"total": "sum"}
    total: Tensor
    most: Tensor
    middle: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))
        self.register_buffer("most", torch.zeros((), dtype=torch.int64))
        self.register_buffer("middle", torch.zeros(features))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.total += len(inputs)
                self.most.clamp_(min=len(inputs))
                self.middle.lerp_(inputs.detach().mean(0), 0.1)
        return (inputs - self.middle) * self.scale


class Shared(nn.Module):
    """ALBERT's layer, which is used again and again, a norm that two modules hold, and a tied weight and buffer."""

    norm: Norm
    middle: Tensor

    def __init__(self, shape: TableShape, width: int = 6) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(shape.buckets, width, mode="sum")
        self.first = nn.Linear(shape.numeric, width)
        inner, norm = nn.Linear(width, width), Norm(width)
        layer = nn.Sequential(inner, nn.Tanh(), norm)
        self.layers = nn.ModuleList([layer, layer, layer])
        self.norm = norm
        self.tied = nn.Linear(width, width)
        self.tied.weight = inner.weight
        self.last = nn.Linear(width, shape.outputs)
        self.register_buffer("middle", norm.middle)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        hidden = self.first(inputs["numeric"].nan_to_num()) + self.embed(inputs["categorical"].flatten(1))
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        output: Tensor = self.last(self.tied(self.norm(hidden)) + self.middle)
        return output


NAMES = [
    *("model.embed.weight", "model.first.weight", "model.first.bias", "model.layers.0.0.weight"),
    *("model.layers.0.0.bias", "model.layers.0.2.scale", "model.tied.bias", "model.last.weight", "model.last.bias"),
    *("model.middle", "model.layers.0.2.total", "model.layers.0.2.most"),
]
"""Each tensor once, under its first name."""
