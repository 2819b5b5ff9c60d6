"""Experts side by side: each learns as alone, and the mix of their answers has a closed form."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from incr_core.models import freshness
from incr_core.objectives import Binary, Blend, GrowingMulticlass, Multiclass, Objective, Regression
from incr_core.objectives._blend import HALF_LIFE
from incr_core.objectives._least_squares_mix import least_squares_mix

EACH: dict[str, tuple[Objective, Tensor]] = {
    "binary": (Binary(), torch.tensor([0.0, 1.0, 1.0, 0.0])),
    "multiclass": (Multiclass(3), torch.tensor([0, 2, 1, 0])),
    "growing": (GrowingMulticlass(3), torch.tensor([0, 1, 1, 0])),
    "regression": (Regression(), torch.tensor([1.0, -1.0, 3.0, 5.0], dtype=torch.float64)),
}


def add(blend: Blend, output: Tensor, targets: Tensor) -> None:
    """As all workers do with what all have observed."""
    for name, value in {**blend.observe(targets), **blend.observe_answers(output, targets)}.items():
        blend.get_buffer(name).add_(value)


@pytest.mark.parametrize("kind", EACH)
def test_each_expert_learns_by_its_own_loss_alone(kind: str) -> None:
    each, targets = EACH[kind]
    blend = Blend(each, learned=2, solved=1)
    output = torch.randn(4, blend.outputs, requires_grad=True)
    blend(output, targets).backward()
    alone = output.detach()[:, : each.outputs].clone().requires_grad_()
    each(alone, targets).backward()
    assert output.grad is not None
    torch.testing.assert_close(output.grad[:, : each.outputs], alone.grad)
    assert not output.grad[:, 2 * each.outputs :].any(), "what is solved takes no steps"
    assert blend.rows(output, targets).shape == (4,)


@pytest.mark.parametrize("kind", EACH)
def test_an_answer_is_the_weighted_mean_of_answers(kind: str) -> None:
    each, targets = EACH[kind]
    blend = Blend(each, learned=2, solved=1)
    for _ in range(3):
        add(blend, torch.randn(4, blend.outputs), targets)
    output = torch.randn(4, blend.outputs)
    answers, weights = blend.answers(output), blend.weights()
    assert float(weights.sum()) == pytest.approx(1.0)
    expected = sum(float(weight) * answer for weight, answer in zip(weights, answers, strict=True))
    torch.testing.assert_close(blend.predict(output), expected)
    assert blend.metrics(blend.measure(blend.predict(output), targets)).keys() == each.metrics({}).keys()
    assert blend.scores(output).shape[1:] == output.shape


def test_the_mix_is_the_best_on_the_simplex() -> None:
    """No mix of a fine grid is better, whatever errors there were."""
    steps = range(21)
    grid = torch.tensor([(a, b, 20 - a - b) for a, b in itertools.product(steps, steps) if a + b <= 20]).double() / 20
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        shape = torch.randn(3, 3, generator=draw, dtype=torch.float64)
        errors = torch.randn(50, 3, generator=draw, dtype=torch.float64) @ shape + 0.5
        moments = errors.t() @ errors
        found = least_squares_mix(moments)
        assert not bool((found < 0).any())
        assert float(found.sum()) == pytest.approx(1.0)
        values = torch.einsum("ik,kl,il->i", grid, moments, grid)
        assert float(found @ moments @ found) <= float(values.min()) * (1 + 1e-6)


def test_experts_that_are_the_same_or_broken_do_no_harm() -> None:
    assert float(least_squares_mix(torch.ones(2, 2, dtype=torch.float64)).sum()) == pytest.approx(1.0)
    assert least_squares_mix(torch.full((2, 2), torch.nan, dtype=torch.float64)).tolist() == [1.0, 0.0]


def test_what_two_workers_add_is_what_one_adds_of_all_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    blend = Blend(Binary(), learned=2)
    output, targets = torch.randn(300, 2, generator=draw), torch.randint(2, (300,), generator=draw).float()
    add(blend, output, targets)
    whole = blend.observe_answers(output, targets)
    parts = [blend.observe_answers(output[rows], targets[rows]) for rows in (slice(0, 90), slice(90, 300))]
    for name, value in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], value, rtol=1e-12, atol=0)


def test_who_was_right_lately_counts() -> None:
    """First one expert knows, then the other; two half-lives later it has all the weight."""
    blend = Blend(Binary(), learned=2)
    targets = torch.tensor([0.0, 1.0]).repeat(50)
    right, wrong = 8.0 * (targets - 0.5), 2.0 * (0.5 - targets)
    for _ in range(30):
        add(blend, torch.stack([right, wrong], dim=1), targets)
    assert blend.weights()[0] > 0.95
    for _ in range(20):
        add(blend, torch.stack([wrong, right], dim=1), targets)
    assert blend.weights()[1] > 0.8


@pytest.mark.parametrize("early", [False, True])
def test_freshness_doubles_in_a_half_life_and_never_ends(early: bool) -> None:
    rows = torch.linspace(0, 1e6, 20_001, dtype=torch.float64)
    grown = freshness(rows, HALF_LIFE, early=early).log2().diff()
    assert bool((grown > 0).all()), "later rows count more, without a jump"
    middle = (rows[1:] > 6 * HALF_LIFE) & (rows[1:] < 49 * HALF_LIFE)
    torch.testing.assert_close(grown[middle], torch.full_like(grown[middle], 50 / HALF_LIFE), rtol=1e-6, atol=0)
    assert bool(freshness(torch.tensor(1e13, dtype=torch.float64), HALF_LIFE, early=early).isfinite())
