"""`[[model.adapt]]` with a pruning describes the masks and the schedule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from incr_core.errors import ArgumentError, IncrError, StrategyError
from incr_core.learner import Learner
from incr_core.models.adapt import magnitude_pruning
from incr_core.objectives import Multiclass
from incr_core.strategies import Pruning
from tests.support.federated_runs import people


def adapt(arguments: str) -> str:
    return f"model.adapt=[{{{arguments}}}]"


def test_the_schedule_goes_to_the_strategy_and_the_rest_to_the_masks(table: Path) -> None:
    job = people(table, adapt('name="movement_pruning", sparsity=0.5, over=3, target="layers.0"'))
    pruning = job.strategies()[-1]
    assert isinstance(pruning, Pruning)
    assert (pruning.sparsity, pruning.over, pruning.scope) == (0.5, 3, "global")
    learner = job.participant().learner
    assert [name for name in learner.rules() if name.endswith("prune_mask")] == [
        "model.layers.0.parametrizations.weight.0.prune_mask"
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([adapt('name="magnitude_pruning", sparcity=0.5')], "expected an argument, got 'sparcity'; did you mean 'spar"),
        ([adapt('name="magnitude_pruning", sparsity=1.5')], "sparsity: expected a number from 0 to 1, got 1.5"),
        ([adapt('name="magnitude_pruning", sparsity=0.5, initial=0.6')], "initial: expected at most the final sparsit"),
        ([adapt('name="magnitude_pruning", scope="net"')], 'scope: expected "global" or "layer", got \'net\''),
        ([adapt('name="magnitude_pruning", target="layer"')], r"target: expected a pattern that matches a Linear"),
        (
            ['model.adapt=[{name="magnitude_pruning"}, {name="movement_pruning"}]'],
            "expected one of magnitude_pruning and movement_pruning, got 2",
        ),
        (
            [adapt('name="magnitude_pruning"'), 'federated.personal=["layers.3.*"]'],
            "expected no federated.personal, since masks",
        ),
        (
            [adapt('name="magnitude_pruning"'), 'strategy=[{name="packnet", every=1}]'],
            "packnet: expected weights that may become 0",
        ),
    ],
)
def test_a_mistake_is_named(table: Path, settings: list[str], message: str) -> None:
    with pytest.raises(IncrError, match=message):
        people(table, *settings).participant()


def test_a_weight_that_two_modules_share_is_refused() -> None:
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.weight = one.weight
    with pytest.raises(ArgumentError, match=r"magnitude_pruning.target: .* got that of 0, which another module shares"):
        magnitude_pruning(nn.Sequential(one, other))


def test_a_strategy_without_masks_is_refused() -> None:
    with pytest.raises(StrategyError, match="pruning: expected a model with masks, got one without"):
        Learner(nn.Linear(2, 3), Multiclass(3), torch.optim.SGD, [Pruning()])
