"""Sums of rows give the ridge regression of all of them at once: in any order, on any split, with rows taken out."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from incr_core.errors import ArgumentError
from incr_core.models import LEVELS, RandomFeatures, RidgeSums


def rows(count: int = 1500, features: int = 300, targets: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, LEVELS + 1, (count, features), generator=generator).float()
    return levels, torch.randint(0, 2, (count, targets), generator=generator).float()


def sums_of(levels: Tensor, targets: Tensor, weights: Tensor | None = None) -> RidgeSums:
    sums = RidgeSums(levels.shape[1], targets.shape[1])
    sums.add(levels, targets, weights)
    return sums


def equal(one: RidgeSums, other: RidgeSums) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))


@pytest.mark.parametrize("weighted", [False, True])
def test_is_ridge_regression_on_all_rows_at_once(weighted: bool) -> None:
    levels, targets = rows()
    weights = torch.rand(len(levels), generator=torch.Generator().manual_seed(1)) if weighted else None
    found = sums_of(levels, targets, weights).solve(500.0)
    theirs = Ridge(500.0).fit(levels.double(), targets.double(), None if weights is None else weights.double())
    assert torch.allclose(found.weight, torch.from_numpy(theirs.coef_).t(), rtol=1e-8, atol=1e-12)
    assert torch.allclose(found.bias, torch.from_numpy(theirs.intercept_), rtol=1e-8)
    scores = theirs.predict(levels.double())
    mass = torch.ones(len(levels)).double() if weights is None else weights.double()
    wrong = mass @ (torch.from_numpy(scores) - targets).square()
    centred = mass @ (targets - (mass @ targets.double()) / mass.sum()).square()
    assert torch.allclose(found.unexplained, wrong / centred, rtol=1e-8)


def test_has_the_same_bits_in_any_order_and_on_any_split() -> None:
    levels, targets = rows()
    order = torch.randperm(len(levels), generator=torch.Generator().manual_seed(2))
    first, second = order[:311], order[311:]
    parts = sums_of(levels[first], targets[first]), sums_of(levels[second], targets[second])
    merged = RidgeSums(300, 3)
    for name, value in merged.named_buffers():
        value.copy_(parts[0].get_buffer(name) + parts[1].get_buffer(name))
    assert equal(merged, sums_of(levels, targets))


def test_rows_that_are_taken_out_leave_no_bit_behind() -> None:
    levels, targets = rows()
    sums = sums_of(levels, targets)
    sums.add(levels[100:1200], targets[100:1200], sign=-1)
    kept = torch.cat([torch.arange(100), torch.arange(1200, 1500)])
    assert equal(sums, sums_of(levels[kept], targets[kept]))


def test_sums_of_rows_with_weights_are_those_of_rows_that_come_as_often() -> None:
    levels, targets = rows(40, 5)
    weights = torch.arange(40) % 3
    assert equal(
        sums_of(levels, targets, weights.float()),
        sums_of(levels.repeat_interleave(weights, 0), targets.repeat_interleave(weights, 0)),
    )


def test_a_penalty_that_is_too_small_is_raised_until_there_is_an_answer() -> None:
    levels = torch.ones(10, 50)
    found = sums_of(levels, torch.arange(10.0)[:, None]).solve(1e-300)
    assert found.weight.isfinite().all()
    assert abs(float(found.bias + levels[0].double() @ found.weight) - 4.5) < 1e-6


def test_a_sum_that_is_not_finite_shows_in_the_answer() -> None:
    levels, targets = rows(10, 5)
    levels[3, 2] = torch.nan
    assert sums_of(levels, targets).solve(1.0).weight.isnan().any()


def test_of_no_rows_all_answers_are_zero() -> None:
    found = RidgeSums(4, 2).solve(1.0)
    assert not found.weight.any()
    assert not found.bias.any()
    assert not found.unexplained.any()


def test_random_features_are_whole_levels_that_follow_from_the_seed_and_not_from_the_batch() -> None:
    inputs = torch.randn(64, 7, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 6, 64)[:, None]
    levels = RandomFeatures(7, 50, seed=3)(inputs)
    assert torch.equal(levels, levels.round())
    assert levels.min() == 0
    assert levels.max() == LEVELS
    assert torch.equal(RandomFeatures(7, 50, seed=3)(inputs[:5]), levels[:5])
    assert not torch.equal(RandomFeatures(7, 50, seed=4)(inputs), levels)
    assert not RandomFeatures(7, 50).state_dict()


def test_features_are_counted() -> None:
    with pytest.raises(ArgumentError, match=r"ridge\.features: expected 1 or more, got 0"):
        RandomFeatures(3, 0)
