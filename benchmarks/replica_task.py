"""The task of all arms of `benchmarks.cluster`, and the peers' training loop: torch alone, for any interpreter."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BATCH", "RATE", "WIDTH", "H", "drawn", "learn", "network"]

WIDTH, CLASSES, BATCH, RATE = 64, 10, 128, 0.05
H = 16
"""Steps between exchanges, of those who do not exchange at every step."""

WARM_UP = 10


def network(hidden: int = 512) -> nn.Sequential:
    """The same weights at every call."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES)
    )


def drawn(rows: int, rank: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of ten classes, (rows, WIDTH) and (rows,)."""
    draw = torch.Generator().manual_seed(1 + rank)
    x = torch.randn(rows, WIDTH, generator=draw)
    return x, x[:, :CLASSES].argmax(1)


def learn(
    model: nn.Module, optimizer: torch.optim.Optimizer, rows: int, rank: int, meet: Callable[[], Any] = lambda: None
) -> float:
    """Learn so many rows, a batch a step; returns the seconds it took, after a few steps that are not counted.

    meet: waits for the others.
    """
    x, y = drawn(rows + WARM_UP * BATCH, rank)
    begun = 0.0
    for number in range(WARM_UP + rows // BATCH):
        if number == WARM_UP:
            meet()
            begun = time.perf_counter()
        place = slice(number * BATCH, (number + 1) * BATCH)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(nn.functional.cross_entropy(model(x[place]), y[place]))
        optimizer.step()
    return time.perf_counter() - begun
