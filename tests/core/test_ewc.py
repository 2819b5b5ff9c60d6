"""EWC against the penalty as written."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from incr_core.batch import Batch
from incr_core.errors import StrategyError
from incr_core.fisher import fisher_diagonal
from incr_core.learner import Learner
from incr_core.objective import Multiclass
from incr_core.strategies import EWC


def increment(day: int, rows: int = 20) -> Batch:
    inputs = torch.randn(rows, 4, generator=torch.Generator().manual_seed(day), dtype=torch.float64)
    return Batch(inputs, inputs.argmax(1) % 3)


def make(ewc: EWC, lr: float = 0.1) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return Learner(model, Multiclass(3), partial(torch.optim.SGD, lr=lr), [ewc], batch_size=5)


def tensors(part: nn.Module) -> dict[str, torch.Tensor]:
    return {name.replace("/", "."): value.clone() for name, value in part.named_buffers()}


def test_the_gradient_is_that_of_the_penalty() -> None:
    ewc = EWC(strength=37.0)
    learner = make(ewc)
    for day in range(2):
        learner.learn(increment(day))
    fisher, anchor, rows = tensors(ewc.fisher), tensors(ewc.anchor), increment(2, rows=5)
    weights = dict(learner.model.named_parameters())
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    before = {name: weight.detach().clone() for name, weight in weights.items()}

    terms = [(fisher[name] * (weight - anchor[name]) ** 2).sum() for name, weight in weights.items()]
    loss = learner.objective(learner.model(rows.inputs), rows.targets) + 37.0 / 2 * torch.stack(terms).sum()
    gradients = torch.autograd.grad(loss, list(weights.values()))
    learner.begin(rows)
    learner.advance()
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        torch.testing.assert_close(weight.detach(), before[name] - 0.1 * gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("decay", [1.0, 0.5, 0.0])
def test_the_fisher_is_summed_with_decay_and_the_anchor_moves(decay: float) -> None:
    ewc = EWC(decay=decay)
    learner = make(ewc)
    expected = {name: torch.zeros_like(weight) for name, weight in learner.model.named_parameters()}
    for day in range(3):
        learner.learn(increment(day))
        new = fisher_diagonal(learner.model, learner.objective, increment(day))
        expected = {name: decay * expected[name] + new[name] for name in new}
        for name, weight in learner.model.named_parameters():
            torch.testing.assert_close(tensors(ewc.fisher)[name], expected[name], rtol=1e-6, atol=1e-12)
            assert torch.equal(tensors(ewc.anchor)[name], weight)


def test_every_n_increments() -> None:
    ewc = EWC(every=2)
    learner = make(ewc)
    moved = []
    for day in range(4):
        before = tensors(ewc.anchor)
        learner.learn(increment(day))
        moved.append(any(not torch.equal(value, before[name]) for name, value in tensors(ewc.anchor).items()))
    assert moved == [False, True, False, True]


def test_it_holds_weights_back() -> None:
    def moved(strength: float) -> float:
        learner = make(EWC(strength=strength), lr=0.02)
        learner.learn(increment(0))
        before = {name: weight.detach().clone() for name, weight in learner.model.named_parameters()}
        for day in range(1, 9):
            learner.begin(increment(day))
            learner.advance()
        return sum(
            float((weight.detach() - before[name]).abs().sum()) for name, weight in learner.model.named_parameters()
        )

    assert moved(100.0) < 0.8 * moved(0.0)


def test_a_worker_without_rows_applies_what_others_learned() -> None:
    """Its share in the merge is 0, but the merged penalty is its own from then on."""
    busy, idle = make(EWC(strength=50.0)), make(EWC(strength=50.0))
    busy.learn(increment(0))
    idle.learn(increment(0, rows=0))
    idle.adopt(busy.weights())
    idle.adopt_shared(busy.shared_state()[0])
    for learner in (busy, idle):
        learner.context.generator.manual_seed(0)
        learner.load_state_dict({**learner.state_dict(), "steps": make(EWC()).state_dict()["steps"]})
        for _ in range(2):
            learner.begin(increment(1))
            learner.advance()
    for name, value in busy.weights().items():
        assert torch.equal(value, idle.weights()[name])


def test_it_shares_fisher_and_anchor() -> None:
    state, rules = make(EWC()).shared_state()
    assert set(rules.values()) == {"mean"}
    assert {name.split(".")[1] for name in state} == {"fisher", "anchor"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": -1.0}, "ewc.strength: expected 0 or more, got -1"),
        ({"decay": 1.5}, "ewc.decay: expected a number from 0 to 1, got 1.5"),
        ({"every": 0}, "ewc: expected samples and every of at least 1, got 1024 and 0"),
    ],
)
def test_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        EWC(**arguments)  # type: ignore[arg-type]
