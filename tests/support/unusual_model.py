"""A model with a little of everything that a table's MLP has not."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn

from incr_core.models import TableShape
from tests.support.shared_models import Shared


class Unusual(nn.Module):
    """Shared modules, layers made in the first forward, frozen parts, odd types, and noise from three generators."""

    turn: Tensor
    seen: Tensor
    coarse: Tensor

    def __init__(self, shape: TableShape) -> None:
        super().__init__()
        self.inner = Shared(shape)
        self.frozen = nn.BatchNorm1d(shape.numeric).eval()
        self.late = nn.LazyLinear(shape.outputs)
        self.coarse = nn.Parameter(torch.ones(3).to(torch.float8_e4m3fn), requires_grad=False)
        self.register_buffer("turn", torch.ones(2, dtype=torch.complex128))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64).to(torch.uint64))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        numeric = self.frozen(inputs["numeric"].nan_to_num())
        if self.training:
            numeric = numeric + 0.1 * random.random() + 0.1 * float(np.random.randn()) + 0.1 * torch.rand(())
            with torch.no_grad():
                self.turn.mul_(torch.exp(torch.tensor(0.01j)))
                self.seen.copy_(self.seen.to(torch.int64) + len(numeric))
        output: Tensor = self.inner({**inputs, "numeric": numeric}) + self.late(numeric)
        return output * self.coarse.float().mean()


def model(shape: TableShape) -> nn.Module:
    return Unusual(shape)
