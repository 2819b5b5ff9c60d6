"""The pull keeps its factors from step to step, and nobody who changes what they are made of needs to tell it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.objectives import Regression
from incr_core.strategies import EWC

STRENGTH = 3.0


def learner() -> Learner:
    torch.manual_seed(0)
    return Learner(nn.Linear(3, 1), Regression(), partial(torch.optim.SGD, lr=0.1), [EWC(strength=STRENGTH)])


def ewc(one: Learner) -> EWC:
    strategy = one.strategies[0]
    assert isinstance(strategy, EWC)
    return strategy


def rows(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(8, 3, generator=generator), torch.randn(8, generator=generator))


def asked_for(one: Learner) -> list[torch.Tensor]:
    """What the penalty adds to gradients of zero."""
    for weight in one.context.parameters:
        weight.grad = torch.zeros_like(weight)
    ewc(one).after_backward(one.context)
    found = [weight.grad for weight in one.context.parameters]
    assert all(gradient is not None for gradient in found)
    return found  # type: ignore[return-value]


def by_formula(one: Learner) -> list[torch.Tensor]:
    lr = one.optimizer.param_groups[0]["lr"]
    fisher, anchors = ewc(one).fisher.tensors(), ewc(one).anchor.tensors()
    return [
        STRENGTH * f / (1 + lr * STRENGTH * f) * (weight.detach() - anchor)
        for f, anchor, weight in zip(fisher, anchors, one.context.parameters, strict=True)
    ]


def load(one: Learner) -> None:
    other = learner()
    other.learn(rows(3))
    one.load_state_dict(other.state_dict())


def merge(one: Learner) -> None:
    state, _ = one.shared_state()
    one.adopt_shared({name: 2 * value for name, value in state.items()})


def move(one: Learner) -> None:
    one.model.double()
    one.strategies.double()


def replace(one: Learner) -> None:
    fisher = ewc(one).fisher
    for _ in range(2):  # the second time none of the tensors has been changed in place, before or after
        for name, value in list(fisher.named_buffers()):
            setattr(fisher, name, 2 * value)
        asked_for(one)


def slow_down(one: Learner) -> None:
    one.optimizer.param_groups[0]["lr"] = 0.001


@pytest.mark.parametrize("change", [load, merge, move, replace, slow_down, lambda one: one.learn(rows(4))])
def test_factors_follow_what_they_are_made_of(change: Callable[[Learner], object]) -> None:
    one = learner()
    one.learn(rows(1))
    before = [value.clone() for value in asked_for(one)]
    change(one)
    with torch.no_grad():
        for weight in one.context.parameters:
            weight.add_(0.5)
    found = asked_for(one)
    torch.testing.assert_close(found, by_formula(one))
    assert not torch.allclose(found[0].float(), before[0])


def test_no_stiffness_is_too_much() -> None:
    one = learner()
    one.learn(rows(1))
    for fisher in ewc(one).fisher.tensors():
        fisher.fill_(torch.finfo(fisher.dtype).max)
    with torch.no_grad():
        for weight in one.context.parameters:
            weight.add_(0.5)
    for gradient in asked_for(one):  # a step of SGD along it comes to the anchor and no further
        torch.testing.assert_close(0.1 * gradient, torch.full_like(gradient, 0.5))
