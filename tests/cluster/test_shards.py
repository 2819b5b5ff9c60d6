"""Law 4 for models of all sorts: whether shards divide rows, and that two of them learn what one process learns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cluster._rank import Rank
from incr_core.batch import Batch
from incr_core.errors import JobError
from tests.support.sharded_learners import (
    Centred,
    behind,
    gap,
    held,
    learned_alone,
    learned_in_shards,
    learner_of,
    rows,
    sharded,
)
from tests.support.shards import TwoShards

pytestmark = pytest.mark.ray


class OwnNorm(nn.BatchNorm1d):
    """A subclass with a forward of its own: without the affine part, and with every batch counting as much."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean.mul_(0.5).add_(0.5 * x.detach().mean(0))
        self.running_var.mul_(0.5).add_(0.5 * x.detach().var(0))
        return (x - x.mean(0)) / (x.var(0) + self.eps).sqrt()


class Codebook(nn.Module):
    """Every row is moved towards the nearest of three codes, which follow the rows nearest to them."""

    codes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.eye(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x, self.codes).argmin(1)
        if self.training:
            for code in set(nearest.tolist()):
                self.codes[code] = 0.9 * self.codes[code] + 0.1 * x[nearest == code].detach().mean(0)
        return 0.5 * (x + self.codes[nearest])


class Branching(nn.Module):
    """Rows choose together which of two layers, gathered apart, they all go through."""

    def __init__(self) -> None:
        super().__init__()
        self.ways = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.ways[int(x.mean() > 0)](x)
        return output


def batch_norm() -> nn.Module:
    return behind(nn.Linear(4, 4), nn.BatchNorm1d(4))


def own_norm() -> nn.Module:
    return behind(nn.Linear(4, 4), OwnNorm(4))


def instance_norm() -> nn.Module:
    return behind(nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten())


def moving_mean() -> nn.Module:
    return behind(Centred())


def codebook() -> nn.Module:
    return behind(nn.Linear(4, 4), Codebook())


def dropout() -> nn.Module:
    return behind(nn.Linear(4, 4), nn.Dropout(0.5))


def perceptron() -> nn.Module:
    return behind(nn.Linear(4, 4), nn.LayerNorm(4))


@pytest.mark.parametrize(
    "make",
    [batch_norm, own_norm, instance_norm, moving_mean, codebook, dropout, Branching],
    ids=lambda make: make.__name__,
)
def test_where_rows_belong_together_each_shard_takes_the_whole_batch(
    make: Callable[[], nn.Module], two_shards: TwoShards
) -> None:
    (first, divides), (second, _) = two_shards.run(learned_in_shards, make, {})
    assert not divides
    assert all(value.equal(second[name]) for name, value in first.items())
    assert gap(first, learned_alone(make)) < 1e-6


def test_where_rows_are_independent_shards_divide_them(two_shards: TwoShards) -> None:
    (first, divides), (second, _) = two_shards.run(learned_in_shards, perceptron, {})
    assert divides
    assert all(value.equal(second[name]) for name, value in first.items())
    assert gap(first, learned_alone(perceptron)) < 1e-6
    (first, divides), _ = two_shards.run(learned_in_shards, perceptron, {"rows": "together"})
    assert not divides
    assert gap(first, learned_alone(perceptron, rows="together")) < 1e-6


# -- rows said to be independent -----------------------------------------------------------------------------------


def masks_of(place: Rank) -> tuple[list[Tensor], Tensor]:
    """What Dropout leaves in this shard of rows of ones, in three batches of which the last is one row; and where the
    chance of the whole replica stands afterwards."""
    seen: list[Tensor] = []
    learner = sharded(lambda: behind(nn.Dropout(0.5)), place, rows="independent", shuffle=False)
    next(learner.model.children()).register_forward_hook(lambda _, __, output: seen.append(output.detach().clone()))
    seen.clear()
    labelled = Batch(torch.ones(17, 4), torch.zeros(17, dtype=torch.int64))
    learner.begin(labelled)
    learner.steps.smallest = learner.division.smallest = 1
    seen.clear()
    learner.advance()
    return seen, learner.random_state.state_dict()["cpu"]


def test_each_shard_draws_its_own_chance_for_its_own_rows(two_shards: TwoShards) -> None:
    (first, one), (second, other) = two_shards.run(masks_of)
    assert [len(part) for part in first] == [len(part) for part in second] == [4, 4, 1]
    assert not first[0].equal(second[0])
    assert not first[1].equal(second[1])
    assert first[2].equal(second[2]), "a batch that cannot be divided is the same in both"
    assert one.equal(other)


# -- going on from a saved state -----------------------------------------------------------------------------------


def gone_on(place: Rank) -> tuple[dict[str, Tensor], dict[str, Tensor], bool]:
    """Weights of a learner, and of one that went on from its state where equal rows tell nothing."""
    learners = [sharded(perceptron, place) for _ in range(2)]
    learners[0].learn(rows())
    learners[1].load_state_dict(learners[0].state_dict())
    learners[1].adopt(held(learners[0]))
    equal = Batch(torch.ones(9, 4), torch.tensor([0, 1, 2] * 3))
    for learner in learners:
        learner.learn(equal)
    return held(learners[0]), held(learners[1]), learners[1].divides


def test_what_was_found_out_about_rows_is_part_of_the_state(two_shards: TwoShards) -> None:
    for through, again, divides in two_shards.run(gone_on):
        assert divides
        assert all(value.equal(again[name]) for name, value in through.items())


def test_a_norm_that_counts_over_all_shards_is_refused_where_each_takes_whole_batches() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.SyncBatchNorm(3))
    with pytest.raises(JobError, match=r"^cluster\.shards: the model has SyncBatchNorm, .* use BatchNorm, or set"):
        learner_of(model, (0, 2)).learn(rows())
