"""Where activations are read: the input of the last linear layer, which a forward must use."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.errors import StrategyError
from incr_core.learner import Learner
from incr_core.objectives import Multiclass
from incr_core.strategies import FeatureDistillation

SGD = partial(torch.optim.SGD, lr=0.1)


class WithAuxiliary(nn.Module):
    """Has a second head that is trained elsewhere; last: whether it is defined behind the one that answers."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        if not last:
            self.auxiliary = nn.Linear(4, 7)
        self.head = nn.Linear(4, 2)
        if last:
            self.auxiliary = nn.Linear(4, 7)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.head(self.body(inputs).tanh())
        return output


def learned(model: nn.Module) -> Tensor:
    learner = Learner(model, Multiclass(2), SGD, [FeatureDistillation(strength=1.0)], batch_size=4)
    rows = Batch(torch.arange(24.0).reshape(8, 3) / 24, torch.arange(8) % 2)
    learner.learn(rows)
    return torch.tensor(learner.learn(rows).losses["features"])


def test_a_last_layer_that_the_forward_does_without_is_named() -> None:
    with pytest.raises(
        StrategyError,
        match=r"^features: expected activations at auxiliary, .* last linear layer, .* not use it; remove",
    ):
        learned(WithAuxiliary(last=True))
    assert learned(WithAuxiliary(last=False)) > 0
