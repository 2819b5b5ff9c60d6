"""Gradient accumulation is exact: k batches of b rows take the same step as one batch of k * b rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from incr_core.batch import Batch
from incr_core.learner import Learner, OptimizerFactory
from incr_core.objectives import Binary, Multiclass, Objective, Regression
from incr_core.strategies import EWC, Replay, Strategy

OPTIMIZERS: dict[str, OptimizerFactory] = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=0.01),
    "fused adam": partial(torch.optim.Adam, lr=0.01, fused=True),
}


def some_rows(objective: Objective, rows: int, weighted: bool) -> Batch:
    generator = torch.Generator().manual_seed(rows)
    inputs = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    score = inputs[:, 0] - inputs[:, 1]
    if isinstance(objective, Multiclass):
        targets = (score > -0.5).long() + (score > 0.5).long()
    else:
        targets = (score > 0).double() if isinstance(objective, Binary) else 100 * score
    weights = torch.rand(rows, generator=generator, dtype=torch.float64) ** 3 if weighted else None
    if weights is not None:
        weights[:8] = 0.0  # a whole batch that counts for nothing
    return Batch(inputs, targets, weights)


def learned(
    batch_size: int,
    accumulate: int,
    objective: Objective,
    optimizer: OptimizerFactory,
    strategies: list[Strategy],
    *,
    weighted: bool = False,
    rows: int = 43,
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, objective.outputs)).double()
    learner = Learner(
        model, objective, optimizer, strategies, batch_size=batch_size, accumulate=accumulate, epochs=2, clip=0.5
    )
    for day in range(2):
        labelled = some_rows(objective, rows + day, weighted)
        learner.absorb(learner.observe(labelled))
        learner.learn(labelled)
    return learner.weights()


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("objective", [Binary(), Multiclass(3), Regression()], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_k_batches_equal_one_large_batch(optimizer: str, objective: Objective, weighted: bool) -> None:
    def weights(batch_size: int, accumulate: int) -> dict[str, torch.Tensor]:
        fresh = type(objective)(3) if isinstance(objective, Multiclass) else type(objective)()
        return learned(batch_size, accumulate, fresh, OPTIMIZERS[optimizer], [], weighted=weighted)

    large = weights(12, 1)
    for batch_size, accumulate in ((4, 3), (1, 12), (3, 4)):  # 43 = 3 * 12 + 7: the last step and batch are ragged
        for name, value in weights(batch_size, accumulate).items():
            torch.testing.assert_close(value, large[name], rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("strategies", ["replay", "ewc"])
def test_it_holds_with_strategies(strategies: str) -> None:
    makes: dict[str, Callable[[], Strategy]] = {
        "replay": partial(Replay, capacity=20),
        "ewc": partial(EWC, strength=5.0),
    }
    make = makes[strategies]
    sgd = OPTIMIZERS["sgd"]
    large = learned(12, 1, Multiclass(3), sgd, [make()])
    small = learned(4, 3, Multiclass(3), sgd, [make()])
    for name, value in small.items():
        torch.testing.assert_close(value, large[name], rtol=1e-9, atol=1e-11)


def test_a_step_of_rows_that_count_for_nothing_changes_nothing() -> None:
    learner = Learner(nn.Linear(2, 1), Binary(), OPTIMIZERS["sgd"], batch_size=2, accumulate=2)
    before = {name: value.clone() for name, value in learner.weights().items()}
    learner.learn(Batch(torch.randn(4, 2), torch.ones(4), torch.zeros(4)))
    for name, value in learner.weights().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_losses_are_sums_over_rows(accumulate: int) -> None:
    objective, labelled = Multiclass(3), some_rows(Multiclass(3), 11, weighted=False)
    model = nn.Linear(5, 3).double()
    learner = Learner(model, objective, partial(torch.optim.SGD, lr=0.0), batch_size=4, accumulate=accumulate)
    expected = objective.rows(model(labelled.inputs), labelled.targets).sum().item()
    assert learner.learn(labelled).losses == {"loss": pytest.approx(expected)}
