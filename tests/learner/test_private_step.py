"""Steps that hide each row: the formula, its noise, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from incr_core.batch import Batch
from incr_core.errors import ArgumentError
from incr_core.learner import Learner
from incr_core.objectives import Binary
from incr_core.privacy import SecretNoise
from incr_core.strategies import FedProx, Replay, Strategy


def learner(*strategies: Strategy, model: nn.Module | None = None, **settings: object) -> Learner:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1)) if model is None else model
    return Learner(model, Binary(), torch.optim.SGD, strategies, shuffle=False, **settings)  # type: ignore[arg-type]


def rows(count: int = 7) -> Batch:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 4, generator=generator)
    return Batch(inputs, (inputs[:, 0] > 0).float(), torch.linspace(0.1, 2.0, count))


def gradients_by_hand(one: Learner, batch: Batch, clip: float) -> list[torch.Tensor]:
    sums = [torch.zeros_like(weight) for weight in one.context.parameters]
    for row in batch.split(1):
        assert row.weights is not None
        loss = one.objective(one.model(row.inputs), row.targets) * row.weights[0]
        found = torch.autograd.grad(loss, one.context.parameters)
        norm = math.sqrt(sum(float(part.square().sum()) for part in found))
        for total, part in zip(sums, found, strict=True):
            total += part * min(1.0, clip / norm)
    return [total / len(batch) for total in sums]


@pytest.mark.parametrize("clip", [0.05, 100.0])
def test_without_noise_it_is_the_mean_of_clipped_gradients(clip: float) -> None:
    one, batch = learner(batch_size=3), rows()
    private = one.hide_rows(clip, noise=0.0)
    private.source = SecretNoise(b"s", b"p")
    private._at_once = 2
    private.backward(batch.split(3))
    for weight, wanted in zip(one.context.parameters, gradients_by_hand(one, batch, clip), strict=True):
        assert weight.grad is not None
        assert torch.allclose(weight.grad, wanted, atol=1e-6)


def test_the_noise_has_the_standard_deviation_that_was_said() -> None:
    one, batch = learner(model=nn.Sequential(nn.Linear(4, 20_000), nn.Linear(20_000, 1))), rows(5)
    private = one.hide_rows(clip=0.5, noise=3.0)
    found = []
    for purpose in (b"1", b"2"):
        private.source = SecretNoise(b"s", purpose)
        private.backward([batch])
        assert one.context.parameters[0].grad is not None
        found.append(one.context.parameters[0].grad.clone())
    difference = (found[0] - found[1]) / math.sqrt(2)  # what rows say is in both
    assert float(difference.std()) == pytest.approx(3.0 * 0.5 / 5, rel=0.02)


def test_a_row_of_infinite_loss_moves_nothing_but_its_noise() -> None:
    one, batch = learner(), rows()
    private = one.hide_rows(clip=1.0, noise=0.0)
    private.source = SecretNoise(b"s", b"p")
    assert isinstance(batch.inputs, torch.Tensor)
    batch.inputs[2] = math.inf
    private.backward([batch])
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in one.context.parameters)


def test_it_learns_and_goes_on_to_the_bit() -> None:
    found = []
    for stops in (False, True):
        one, batch = learner(FedProx(0.1), batch_size=4, accumulate=2), rows(40)
        private = one.hide_rows(clip=1.0, noise=0.1)
        private.source = SecretNoise(b"s", b"p")
        one.begin(batch)
        if stops:
            one.advance(2)
        update = one.advance()
        found.append({name: value.clone() for name, value in update.weights.items()})
        assert one.context.step == 5
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))}, "BatchNorm"),
        ({"strategies": (Replay(10),)}, "strategy Replay keeps rows"),
        ({"precision": "bfloat16"}, "learner.precision: bfloat16"),
    ],
)
def test_what_cannot_hide_rows_says_why(given: dict[str, object], said: str) -> None:
    strategies = given.pop("strategies", ())
    with pytest.raises(ArgumentError, match=said):
        learner(*strategies, **given).hide_rows(1.0, 1.0)  # type: ignore[misc, arg-type]


def test_a_model_that_vmap_does_not_take_is_refused_by_name() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.inner(inputs) * (2.0 if float(inputs.sum()) > 0 else 1.0)
            return output

    one = learner(model=Counting())
    one.hide_rows(1.0, 1.0).source = SecretNoise(b"s", b"p")
    with pytest.raises(ArgumentError, match=r"expected a model that torch\.func\.vmap takes"):
        one.learn(rows())


def test_dropout_draws_for_each_row() -> None:
    one = learner(model=nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 1)))
    one.hide_rows(1.0, 0.0).source = SecretNoise(b"s", b"p")
    assert one.learn(rows()).num_rows == 7
