"""Law 4 for pruning and for layers that learn rounded: two shards have the masks, ranges and weights of one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from torch import nn

from incr_core.models.adapt import magnitude_pruning, movement_pruning, qat
from incr_core.strategies import Pruning
from tests.support.sharded_learners import gap, learned_alone, learned_in_shards
from tests.support.shards import TwoShards

pytestmark = pytest.mark.ray


def layers(adapt: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return adapt(nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)))


def settings(scope: str) -> dict[str, Any]:
    return {"strategies": [Pruning(sparsity=0.6, over=1, scope=scope)]}  # type: ignore[arg-type]


@pytest.mark.parametrize("adapt", [magnitude_pruning, movement_pruning])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_two_shards_prune_as_one_process(
    adapt: Callable[[nn.Module], nn.Module], scope: str, two_shards: TwoShards
) -> None:
    make = partial(layers, adapt)
    (first, _), (second, _) = two_shards.run(learned_in_shards, make, settings(scope))
    assert all(value.equal(second[name]) for name, value in first.items())
    alone = learned_alone(make, **settings(scope))
    masks = [name for name in alone if name.endswith("prune_mask")]
    assert all(first[name].equal(alone[name]) for name in masks)
    assert sum(int((~alone[name]).sum()) for name in masks) == (16 + 12 if scope == "layer" else 29)
    learned = [name for name in alone if name not in masks]
    assert gap({name: first[name] for name in learned}, {name: alone[name] for name in learned}) < 1e-6


def test_two_shards_learn_rounded_as_one_process(two_shards: TwoShards) -> None:
    make = partial(layers, qat)
    (first, divides), (second, _) = two_shards.run(learned_in_shards, make, {})
    assert not divides  # a range is of a whole batch
    assert all(value.equal(second[name]) for name, value in first.items())
    assert gap(first, learned_alone(make)) < 1e-6
