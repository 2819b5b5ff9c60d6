"""EWC against the penalty as written."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from incr_core.batch import Batch
from incr_core.errors import StrategyError
from incr_core.learner import Learner
from incr_core.objectives import Multiclass
from incr_core.strategies import EWC
from incr_core.strategies.mechanisms import fisher_diagonal
from incr_core.update import merge_shared


def increment(day: int, rows: int = 20) -> Batch:
    inputs = torch.randn(rows, 4, generator=torch.Generator().manual_seed(day), dtype=torch.float64)
    return Batch(inputs, inputs.argmax(1) % 3)


def make(ewc: EWC, lr: float = 0.1) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return Learner(model, Multiclass(3), partial(torch.optim.SGD, lr=lr), [ewc], batch_size=5)


def tensors(part: nn.Module) -> dict[str, torch.Tensor]:
    return {name.replace("/", "."): value.clone() for name, value in part.named_buffers()}


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_the_step_is_that_of_the_penalties(online: bool, decay: float) -> None:
    """The penalties as written, one for each consolidation or the last; implicit in them, explicit in the loss."""
    learner = make(EWC(strength=37.0, decay=decay, online=online))
    weights = dict(learner.model.named_parameters())
    fishers: list[dict[str, torch.Tensor]] = []
    anchors: list[dict[str, torch.Tensor]] = []
    for day in range(3):
        learner.learn(increment(day))
        fishers = [{name: decay * value for name, value in fisher.items()} for fisher in fishers]
        fishers.append(fisher_diagonal(learner.model, learner.objective, increment(day)))
        anchors.append({name: weight.detach().clone() for name, weight in weights.items()})
    if online:
        anchors = [anchors[-1]] * 3
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    rows = increment(3, rows=5)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    loss = learner.objective(learner.model(rows.inputs), rows.targets)
    gradients = torch.autograd.grad(loss, list(weights.values()))

    learner.begin(rows)
    learner.advance()
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        # w' = w - lr * gradient - lr * 37 * sum_k F_k (w'' - a_k), where w'' is where the penalties alone would lead.
        stiffness = 37.0 * torch.stack([fisher[name] for fisher in fishers]).sum(0)
        force = 37.0 * torch.stack(
            [fisher[name] * (before[name] - anchor[name]) for fisher, anchor in zip(fishers, anchors, strict=True)]
        ).sum(0)
        expected = before[name] - 0.1 * (gradient + force / (1 + 0.1 * stiffness))
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("online", [True, False])
def test_no_strength_makes_it_diverge(online: bool) -> None:
    for strength in (10.0, 100.0, 1e6):
        learner = make(EWC(strength=strength, online=online), lr=0.1)
        for day in range(6):
            learner.learn(increment(day, rows=100))
        assert all(weight.abs().max() < 10 for weight in learner.model.parameters())


def test_separate_anchors_merge_to_those_of_all_rows() -> None:
    """Two workers at the same weights, each with half of the rows, keep what one with all of them keeps."""
    learners = [make(EWC(online=False)) for _ in range(3)]
    for day in range(2):
        whole = increment(day, rows=40)
        parts = [whole, whole.slice(0, 20), whole.slice(20, 40)]
        learners[0].learn(whole)
        for learner, rows in zip(learners, parts, strict=True):
            learner.adopt(learners[0].weights())
            if learner is not learners[0]:
                learner.begin(rows, increment=day)
                learner.end(rows)
        states, rules = [learner.shared_state()[0] for learner in learners], learners[0].shared_state()[1]
        merged = merge_shared(states[1:], [20, 20], rules, {})
        for name, value in merged.items():
            torch.testing.assert_close(value, states[0][name], rtol=1e-6, atol=1e-9)
        for learner in learners[1:]:
            learner.adopt_shared(merged)


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


def test_it_shares_fisher_and_anchor() -> None:
    state, rules = make(EWC()).shared_state()
    assert set(rules.values()) == {"mean"}
    assert {name.split(".")[1] for name in state} == {"fisher", "anchor"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": -1.0}, "ewc.strength: expected 0 or more, got -1"),
        ({"decay": 1.5}, "ewc.decay: expected a number from 0 to 1, got 1.5"),
        ({"every": 0}, "ewc.every: expected 1 or more, got 0; leave it out"),
    ],
)
def test_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        EWC(**arguments)  # type: ignore[arg-type]
