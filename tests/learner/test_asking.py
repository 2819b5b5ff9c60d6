"""Forwards that only answer leave no trace in a model that keeps something in every forward."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.errors import ArgumentError, CheckpointError
from incr_core.learner import Learner
from incr_core.objectives import Binary
from incr_core.storage.packing import pack, unpack


class Keeping(nn.Module):
    """A linear layer; those below keep something besides."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.linear(inputs)
        return output


class Average(Keeping):
    """A moving average, written in place."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, inputs: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(inputs.detach().mean(0), alpha=0.1)
        return super().forward(inputs - self.mean)


class Replaced(Average):
    """The same, a new tensor every time."""

    def forward(self, inputs: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * inputs.detach().mean(0)
        return Keeping.forward(self, inputs - self.mean)


class AlwaysTraining(Keeping):
    """Statistics of a norm that the forward puts in training mode; torch counts no writes to them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(self.norm.train()(inputs))


class Shortened(Keeping):
    """Embeddings that are cut to a norm as they are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 4, max_norm=0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs + self.embedding(inputs[:, 0].abs().long().clamp(max=7)))


class Told(Keeping):
    """A count that is told as extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(inputs) * (1 + 0.01 * self.calls)


def some(seed: int, scale: float = 1.0) -> Batch:
    inputs = scale * torch.randn(24, 4, generator=torch.Generator().manual_seed(seed))
    return Batch(inputs, (inputs[:, 0] > 0).float())


def learner_of(make: Callable[[], nn.Module]) -> Learner:
    torch.manual_seed(0)
    return Learner(make(), Binary(), "sgd", batch_size=8)


@pytest.mark.parametrize("make", [Average, Replaced, AlwaysTraining, Shortened, Told])
def test_a_question_changes_neither_answers_nor_what_is_learned(make: Callable[[], nn.Module]) -> None:
    asked, silent = learner_of(make), learner_of(make)
    for increment in range(2):
        before = {name: value.clone() for name, value in asked.weights().items()}
        answer = asked.predict(some(9).inputs)
        asked.loss_of(some(8, scale=50.0))
        asked.predict(some(8, scale=50.0).inputs)
        assert torch.equal(asked.predict(some(9).inputs), answer)
        assert all(torch.equal(value, before[name]) for name, value in asked.weights().items())
        for learner in (asked, silent):
            learner.learn(some(increment))
        assert all(torch.equal(value, silent.weights()[name]) for name, value in asked.weights().items())
        assert asked.extra.state_dict() == silent.extra.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in asked.weights().items())


def test_a_tensor_that_only_a_later_forward_writes_to_is_named() -> None:
    class Late(Average):
        transient = ("calls",)

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(inputs) if self.calls > 1 else Keeping.forward(self, inputs)

    learner = learner_of(Late)
    learner.predict(some(0).inputs)
    with pytest.raises(
        ArgumentError, match=r"^model\.mean: expected a tensor that .* write to it only if self\.training"
    ):
        learner.predict(some(0).inputs)


class Noisy(Keeping):
    """Noise from a generator of its own."""

    def __init__(self, generator: Any, draw: Callable[[Any], float]) -> None:
        super().__init__()
        self.generator = generator
        self.draw = draw

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs + (self.draw(self.generator) if self.training else 0.0))


GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], float]]] = {
    "numpy's": (np.random.default_rng, lambda generator: float(generator.normal())),
    "numpy's Philox": (
        lambda: np.random.Generator(np.random.Philox()),
        lambda generator: float(generator.integers(9, dtype=np.int32)),
    ),
    "numpy's of old": (np.random.RandomState, lambda generator: float(generator.randn())),
    "Python's": (random.Random, lambda generator: float(generator.gauss(0, 1))),
    "torch's": (torch.Generator, lambda generator: float(torch.randn((), generator=generator))),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_of_ones_own_are_seeded_and_go_on(name: str) -> None:
    make, draw = GENERATORS[name]
    whole, again = (learner_of(lambda: Noisy(make(), draw)) for _ in range(2))
    for learner in (whole, again):
        learner.learn(some(1))
    assert all(torch.equal(value, again.weights()[key]) for key, value in whole.weights().items())
    resumed = learner_of(lambda: Noisy(make(), draw))
    resumed.load_state_dict(unpack(*pack(again.state_dict())))
    resumed.adopt(again.weights())
    for learner in (whole, resumed):
        learner.learn(some(2))
    assert all(torch.equal(value, resumed.weights()[key]) for key, value in whole.weights().items())


def test_a_generator_more_or_less_is_named() -> None:
    noisy = learner_of(lambda: Noisy(random.Random(), lambda generator: float(generator.random())))
    with pytest.raises(CheckpointError, match=r"^model\.generator: expected one of the random generators .* got none"):
        noisy.load_state_dict(learner_of(Keeping).state_dict())
    with pytest.raises(ArgumentError, match=r"^model\.generator: expected a random generator that can be seeded"):
        learner_of(lambda: Noisy(random.SystemRandom(), lambda generator: float(generator.random())))


def test_a_plain_number_that_learning_changes_is_named() -> None:
    class Counting(Keeping):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(inputs)

    with pytest.raises(
        ArgumentError, match=r"^model\.calls: expected a number .* changed it from 0 to 3: .*get_extra_state"
    ):
        learner_of(Counting).learn(some(0))

    class Unimportant(Counting):
        transient = ("calls",)

    learner_of(Unimportant).learn(some(0))
