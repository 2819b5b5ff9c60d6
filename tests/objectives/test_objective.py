"""Objectives and the moments they share with models: closed forms and invariances."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.models import Moments
from incr_core.numerics import is_stand_in
from incr_core.objectives import Binary, Multiclass, Objective, Regression


def rows_of(objective: Objective, rows: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(rows, objective.outputs, generator=generator)
    if isinstance(objective, Multiclass):
        return output, torch.randint(objective.outputs, (rows,), generator=generator)
    return output, torch.randint(2, (rows,), generator=generator).float()


OBJECTIVES = [Binary(), Multiclass(4), Regression()]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_weights_count_rows(objective: Objective) -> None:
    output, targets = rows_of(objective)
    times = torch.arange(12) % 3
    repeated = objective(output.repeat_interleave(times, 0), targets.repeat_interleave(times, 0))
    torch.testing.assert_close(objective(output, targets, times.float()), repeated)
    torch.testing.assert_close(objective(output, targets), objective.rows(output, targets).mean())
    assert objective(output, targets, torch.zeros(12)).item() == 0.0


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_scores_make_the_expected_outer_product_of_the_gradient(objective: Objective) -> None:
    """sum_k s_k s_k^T is the Hessian of the negative log-likelihood, for these are its natural parameters."""
    output, targets = rows_of(objective)
    scores = objective.scores(output)
    found = torch.einsum("kbi,kbj->bij", scores, scores)

    def loss(row: Tensor, target: Tensor) -> Tensor:
        return objective.rows(row[None], target[None])[0]

    halves = 2.0 if isinstance(objective, Regression) else 1.0  # a squared error is twice a Gaussian's
    hessian = vmap(jacrev(jacrev(loss)))(output, targets) / halves
    torch.testing.assert_close(found, hessian)


def test_drawn_scores_are_unbiased() -> None:
    objective, generator = Multiclass(20), torch.Generator().manual_seed(0)
    output = torch.randn(1, 20, generator=generator)
    p = output.softmax(1)[0]
    exact = torch.diag(p) - torch.outer(p, p)
    drawn = objective.scores(output.expand(50_000, -1), generator)[0]
    assert drawn.shape == (50_000, 20)
    torch.testing.assert_close(drawn.T @ drawn / 50_000, exact, atol=4e-3, rtol=0)


def regressed(scale: float, shift: float) -> Tensor:
    torch.manual_seed(0)
    learner = Learner(nn.Linear(3, 1), Regression(), partial(torch.optim.SGD, lr=0.05), batch_size=8)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        inputs = torch.randn(40, 3, generator=generator)
        labelled = Batch(inputs, scale * (inputs @ torch.tensor([1.0, -2.0, 0.5])) + shift)
        learner.absorb(learner.observe(labelled))
        learner.learn(labelled)
    return (learner.predict(torch.randn(20, 3, generator=generator)) - shift) / scale


@pytest.mark.parametrize(("scale", "shift"), [(1000.0, 0.0), (3.0, -50.0), (1e-4, 0.0), (1.0, 200.0)])
def test_regression_does_not_depend_on_the_unit(scale: float, shift: float) -> None:
    torch.testing.assert_close(regressed(scale, shift), regressed(1.0, 0.0), rtol=1e-3, atol=1e-3)


def test_regression_of_a_constant_and_of_nothing() -> None:
    loss = Regression()
    assert loss.predict(torch.tensor([1.5])).item() == 1.5
    loss.target.add(loss.observe(torch.full((10,), 7.0))["target.sums"])
    assert loss.predict(torch.tensor([0.0])).item() == 7.0
    assert loss.rows(torch.zeros(1), torch.tensor([7.0])).item() == 0.0


# -- moments


def test_moments_merge_exactly() -> None:
    # Multiples of 1/8 add without rounding, so any split gives the same bits.
    values = torch.randint(-800, 800, (300, 3), generator=torch.Generator().manual_seed(0)) / 8
    whole, parts = Moments(3), Moments(3)
    whole.add(whole.measure(values))
    for part in reversed(torch.split(values, 7)):
        parts.add(parts.measure(part))
    assert torch.equal(whole.sums, parts.sums)
    mean, std = whole.scale()
    torch.testing.assert_close(mean, values.mean(0))
    torch.testing.assert_close(std, values.std(0, correction=0))


def test_missing_values_are_left_out_and_stay_missing() -> None:
    values = torch.tensor([[1.0, torch.nan], [3.0, torch.nan], [torch.nan, 5.0]])
    moments = Moments(2)
    moments.add(moments.measure(values))
    assert moments.sums[0].tolist() == [2.0, 1.0]
    found = moments.standardise(values)
    assert found[:2, 0].tolist() == [-1.0, 1.0]
    assert found[2, 1].item() == 0.0  # one value: its mean is taken off, nothing is divided
    assert torch.equal(found.isnan(), values.isnan())


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e6 + 0.3])
def test_a_constant_feature_is_not_blown_up(value: float) -> None:
    moments = Moments(1)
    for _ in range(50):
        moments.add(moments.measure(torch.full((37, 1), value)))
    assert moments.scale()[1].item() == 1.0
    assert moments.standardise(torch.tensor([[value]])).abs().item() < 1e-6 * (1 + abs(value))


def test_the_scale_follows_every_way_of_writing_the_sums() -> None:
    moments, one, two = Moments(1), torch.tensor([[1.0], [3.0]]), torch.tensor([[10.0], [30.0]])

    def mean() -> float:
        return moments.scale()[0].item()

    assert mean() == 0.0
    moments.add(moments.measure(one))
    assert mean() == 2.0
    twin = copy.deepcopy(moments)
    moments.state_dict()["sums"].copy_(moments.measure(two))
    assert mean() == 20.0
    moments.sums += moments.measure(one)
    assert mean() == 11.0
    moments.load_state_dict(twin.state_dict())
    assert mean() == 2.0
    moments.sums = moments.measure(two)
    assert mean() == 20.0
    twin.sums *= 0
    assert twin.scale()[0].item() == 0.0
    assert functional_call(Wrapped(moments), {"moments.sums": twin.measure(one)}, (one,)).tolist() == [[-1.0], [1.0]]
    assert mean() == 20.0


def test_a_copy_has_a_scale_of_its_own() -> None:
    for writes in range(6):  # whatever number of writes the copy starts to count from
        moments, one = Moments(1), torch.tensor([[1.0], [3.0]])
        for _ in range(writes):
            moments.add(moments.measure(one))
        moments.scale()
        twin = copy.deepcopy(moments)
        for _ in range(8):
            twin.sums += twin.measure(torch.tensor([[10.0], [30.0]]))
            expected = Moments(1)
            expected.add(twin.sums)
            assert torch.equal(twin.scale()[0], expected.scale()[0])


class Wrapped(nn.Module):
    def __init__(self, moments: Moments) -> None:
        super().__init__()
        self.moments = moments

    def forward(self, values: Tensor) -> Tensor:
        return self.moments.standardise(values)


def test_nothing_of_a_transform_is_kept() -> None:
    moments = Moments(1)
    moments.add(moments.measure(torch.tensor([[1.0], [3.0]])))
    slopes = vmap(grad(lambda value: moments.standardise(value[None])[0, 0]))(torch.zeros(4, 1))
    assert slopes.tolist() == [[1.0]] * 4
    assert not is_stand_in(moments.scale()[0])
