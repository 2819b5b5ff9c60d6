"""A strategy of zero strength equals none, bit for bit, whatever surrounds it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.objectives import Multiclass
from incr_core.strategies import EWC, Replay, Strategy


def learned(strategies: list[Strategy], accumulate: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    optimizer = partial(torch.optim.AdamW, lr=0.01)
    learner = Learner(
        model, Multiclass(3), optimizer, strategies, batch_size=4, accumulate=accumulate, epochs=2, clip=1.0
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        inputs = torch.randn(17, 4, generator=generator)
        weights = torch.rand(17, generator=generator)
        learner.learn(Batch(inputs, inputs.argmax(1) % 3, weights))
    return learner.weights()


ZEROS: dict[str, Callable[[], list[Strategy]]] = {
    "replay": lambda: [Replay(ratio=0.0)],
    "balanced": lambda: [Replay(ratio=0.0, memory="balanced")],
    "ewc": lambda: [EWC(strength=0.0)],
    "all": lambda: [Replay(ratio=0.0), EWC(strength=0.0), Replay(ratio=0.0)],
}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("zeros", ZEROS)
def test_zero_strength_equals_none(zeros: str, accumulate: int) -> None:
    expected = learned([], accumulate)
    for name, value in learned(ZEROS[zeros](), accumulate).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("strategy", [Replay(), EWC()], ids=["replay", "ewc"])
def test_and_any_strength_does_not(strategy: Strategy) -> None:
    expected, found = learned([], 1), learned([strategy], 1)
    assert any(not torch.equal(value, expected[name]) for name, value in found.items())
