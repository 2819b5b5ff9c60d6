"""PackNet and isolation: what a finished task answers never changes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.errors import StrategyError
from incr_core.learner import Learner
from incr_core.objectives import Multiclass
from incr_core.strategies import PackNet
from incr_core.update import mean, merge_shared

OPTIMIZERS: dict[str, Any] = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.005),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
}


def task(number: int, count: int = 300) -> Batch:
    generator = torch.Generator().manual_seed(number)
    plane = torch.randn(8, 2, generator=generator)
    inputs = torch.randn(count, 8, generator=generator)
    return Batch(inputs, (inputs @ plane).argmax(1), task=torch.full((count,), number))


def learner_with(*strategies: PackNet, optimizer: str = "sgd", seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    layers = [nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)]
    model = nn.Sequential(*layers)
    return Learner(
        model, Multiclass(2), OPTIMIZERS[optimizer], strategies, batch_size=32, epochs=5, clip=1.0, seed=seed
    )


def answers(learner: Learner, strategy: PackNet, number: int) -> Tensor:
    with strategy.as_task(learner.context, number), torch.no_grad():
        found: Tensor = learner.model(task(number, 200).inputs)
    return found


def accuracy(output: Tensor, number: int) -> float:
    return float((output.argmax(1) == task(number, 200).targets).float().mean())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("retrain", [0, 1])
def test_old_tasks_answer_the_same_bits_over_three_tasks(optimizer: str, retrain: int) -> None:
    strategy = PackNet(keep=0.5, tasks=3, retrain=retrain)
    learner = learner_with(strategy, optimizer=optimizer)
    found: list[Tensor] = []
    for number in range(3):
        learner.learn(task(number))
        found.append(answers(learner, strategy, number))
        for old, before in enumerate(found):
            assert torch.equal(answers(learner, strategy, old), before)
    if retrain:
        assert all(accuracy(output, number) > 0.8 for number, output in enumerate(found))


def test_each_task_gets_its_share_and_masks_only_grow() -> None:
    strategy = PackNet(keep=0.5, tasks=4)
    learner = learner_with(strategy)
    owned: list[Tensor] = []
    for number in range(3):
        learner.learn(task(number))
        owner = strategy.ownership.owner.get_buffer("3/weight")
        assert int((owner == number + 1).sum()) == 64 * 64 // 2 ** (number + 1)
        for old, mask in enumerate(owned):
            assert torch.equal(owner == old + 1, mask)
        owned.append((owner == number + 1).clone())
    weight = learner.context.parameters[learner.context.names.index("3.weight")]
    assert torch.equal(weight[owner == 0], torch.zeros(64 * 64 // 8))


def test_pruning_keeps_the_largest_and_after_the_last_task_learning_goes_on() -> None:
    strategy = PackNet(keep=0.25, tasks=2, retrain=0)
    learner = learner_with(strategy)
    seen: list[Tensor] = []
    claim = strategy.ownership.claim
    weight = learner.context.parameters[learner.context.names.index("3.weight")]

    def spy(ctx: Any, *arguments: Any) -> None:
        seen.append(weight.detach().abs().clone())
        claim(ctx, *arguments)

    strategy.ownership.claim = spy  # type: ignore[assignment]
    for number in range(4):
        before = weight.detach().clone()
        learner.learn(task(number))
        assert not torch.equal(weight, before)
    owner = strategy.ownership.owner.get_buffer("3/weight")
    assert len(seen) == 1
    assert seen[0][owner == 1].min() >= seen[0][owner == 0].max()


def test_one_task_is_none_bit_for_bit() -> None:
    plain, packed = learner_with(), learner_with(PackNet(tasks=1))
    for number in range(3):
        plain.learn(task(number))
        packed.learn(task(number))
    assert all(torch.equal(a, b) for a, b in zip(plain.weights().values(), packed.weights().values(), strict=True))


def test_a_learner_resumed_in_the_middle_of_a_later_task_goes_on_as_it_would_have() -> None:
    first, again = PackNet(tasks=3), PackNet(tasks=3)
    one = learner_with(first)
    one.learn(task(0))
    one.learn(task(1))
    other = learner_with(again, seed=5)
    other.adopt(one.weights())
    other.load_state_dict(one.state_dict())
    for learner in (one, other):
        learner.learn(task(2))
    assert all(torch.equal(a, b) for a, b in zip(one.weights().values(), other.weights().values(), strict=True))
    assert torch.equal(answers(one, first, 0), answers(other, again, 0))


@pytest.mark.parametrize("retrain", [0, 1])
def test_workers_agree_and_old_tasks_keep_their_bits_through_exchanges(retrain: int) -> None:
    strategies = [PackNet(tasks=4, retrain=retrain) for _ in range(3)]
    workers = [learner_with(strategy, seed=0) for strategy in strategies]
    found: list[Tensor] = []
    for number in range(4):
        anchor = {name: value.clone() for name, value in workers[0].weights().items()}
        # Worker 2 sees nothing of tasks 1 and 2, and comes back for the last.
        active = workers[:2] if number in (1, 2) else workers
        parts = [part.take(torch.arange(len(part))) for part in task(number, 210).split(90)]
        updates = []
        for worker, part in zip(active, parts, strict=False):
            worker.adopt(anchor)
            worker.begin(part, increment=number)
            updates.append(worker.advance())
        merged = {name: value.clone() for name, value in mean(updates, anchor, workers[0].rules()).items()}
        for worker, part in zip(active, parts, strict=False):
            worker.adopt(merged)
            worker.end(part)
        states, rules = [worker.shared_state()[0] for worker in active], workers[0].shared_state()[1]
        shared = merge_shared(states, [90, 90, 30][: len(active)], rules, {})
        for worker in workers:
            worker.adopt(merged)  # the server's weights, neither pruned nor retrained
            worker.adopt_shared(shared)
        for worker in workers[:2] if number + 1 in (1, 2) else workers:
            worker.begin(task(number + 1), increment=number + 1)
            for name, value in worker.weights().items():
                torch.testing.assert_close(value, workers[0].weights()[name], msg=name)
        if number < 3:
            found.append(answers(workers[0], strategies[0], number))
        assert all(torch.equal(answers(workers[0], strategies[0], old), bits) for old, bits in enumerate(found))


def test_weights_that_an_outer_step_moved_are_put_back_before_learning() -> None:
    strategy = PackNet(tasks=3)
    learner = learner_with(strategy)
    learner.learn(task(0))
    before = answers(learner, strategy, 0)
    learner.adopt({name: value + 0.01 for name, value in learner.weights().items()})
    learner.begin(task(1))
    assert torch.equal(answers(learner, strategy, 0), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 1.5}, "packnet.keep: expected a number from 0 to 1, got 1.5"),
        ({"tasks": 0}, "packnet.tasks: expected 1 or more, got 0"),
        ({"retrain": -1}, "packnet.retrain: expected 0 or more, got -1; 0 turns"),
        ({"every": 0}, "packnet.every: expected 1 or more"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        PackNet(**arguments)
