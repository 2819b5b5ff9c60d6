"""The model of one's own leaves no trace in the common one, whatever a model draws, keeps, or looks up."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.objectives import Binary
from incr_core.strategies import Ditto, Strategy


class Drawing(nn.Module):
    """Draws from everywhere while it learns, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.own = np.random.default_rng()
        self.calls = 0

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            noise = random.gauss(0, 1) + float(np.random.randn()) + float(self.own.normal()) + torch.randn(())
            inputs = inputs + 0.1 * noise
        output: Tensor = self.linear(inputs)
        return output


class Looking(nn.Module):
    """An embedding with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 1, sparse=True)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.table(inputs[:, 0].abs().long().clamp(max=4))
        return output


@pytest.mark.parametrize("make", [Drawing, Looking])
def test_the_common_model_is_learned_as_without_it(make: Callable[[], nn.Module]) -> None:
    inputs = torch.randn(24, 2, generator=torch.Generator().manual_seed(0))
    rows, learners = Batch(inputs, (inputs[:, 0] > 0).float()), list[Learner]()
    for strategies in ([Ditto(strength=0.5, lr=0.1)], list[Strategy]()):
        torch.manual_seed(0)
        learner = Learner(make(), Binary(), "sgd", strategies, batch_size=8)
        for _ in range(2):
            learner.learn(rows)
        learners.append(learner)
    beside, alone = learners
    assert all(torch.equal(value, alone.weights()[name]) for name, value in beside.weights().items())
    assert beside.extra.state_dict() == alone.extra.state_dict()
    own = beside.own_weights()
    assert any(not torch.equal(value, own[name]) for name, value in beside.weights().items())
