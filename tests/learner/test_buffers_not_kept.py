"""A buffer that is in no state must not change by learning: it would be neither saved nor merged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.errors import ArgumentError
from incr_core.learner import Learner
from incr_core.objectives import Binary

ROWS = Batch(torch.arange(8.0).reshape(4, 2), torch.tensor([0.0, 1.0, 0.0, 1.0]))


class Normed(nn.Module):
    """Takes off a running mean, kept in a buffer; how it is kept is the subclasses'."""

    mean: Tensor

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.register_buffer("mean", torch.zeros(2), persistent=persistent)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.follow(inputs)
        output: Tensor = self.linear(inputs - self.mean)
        return output

    def follow(self, inputs: Tensor) -> None:
        self.mean.lerp_(inputs.mean(0), 0.5)


class Assigns(Normed):
    def follow(self, inputs: Tensor) -> None:
        self.mean = self.mean + inputs.mean(0)


class Caches(Normed):
    """Fills what it can work out again, and what follows the shape of its inputs."""

    def follow(self, inputs: Tensor) -> None:
        self.mean.copy_(torch.zeros(2))
        self.register_buffer("mask", torch.ones(len(inputs)), persistent=False)


def learner_of(model: nn.Module) -> Learner:
    return Learner(model, Binary(), torch.optim.SGD)


@pytest.mark.parametrize("kind", [Normed, Assigns])
def test_one_that_learning_changes_is_refused_by_name(kind: type[Normed]) -> None:
    with pytest.raises(
        ArgumentError,
        match=r"^model.mean: expected a buffer with persistent=False to stay as it was, and learning changed it: .*; "
        r"register it with persistent=True, or keep",
    ):
        learner_of(kind(persistent=False)).learn(ROWS)


@pytest.mark.parametrize("kind", [Normed, Assigns])
def test_one_that_is_kept_is_saved_and_merged(kind: type[Normed]) -> None:
    learner = learner_of(kind(persistent=True))
    update = learner.learn(ROWS)
    expected = ROWS.inputs.mean(0) / (2 if kind is Normed else 1)  # type: ignore[union-attr]
    assert torch.equal(update.weights["model.mean"], expected)
    assert learner.rules()["model.mean"] == "average"


def test_one_that_is_written_to_and_stays_is_as_good_as_one_that_is_not() -> None:
    class Fills(Normed):
        def follow(self, inputs: Tensor) -> None:
            self.mean.copy_(torch.zeros(2))

    learner = learner_of(Fills(persistent=False))
    assert [learner.learn(ROWS).num_rows for _ in range(2)] == [4, 4]
    assert list(learner.weights()) == ["model.linear.weight", "model.linear.bias"]


def test_a_cache_that_grows_with_its_inputs_is_no_state() -> None:
    class Positions(Normed):
        def follow(self, inputs: Tensor) -> None:
            self.mean = torch.zeros(len(inputs), 2)

    learner = learner_of(Positions(persistent=False))
    assert [learner.learn(ROWS.slice(0, count)).num_rows for count in (4, 3)] == [4, 3]


def test_a_buffer_that_a_forward_registers_is_told() -> None:
    with pytest.raises(ArgumentError, match=r"^model.mask: expected all tensors to exist when the learner is made"):
        learner_of(Caches(persistent=True)).learn(ROWS)
