"""Steps that may be recorded as CUDA graphs: where there is no GPU they are taken as always, to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from incr_core.batch import Batch
from incr_core.learner import Learner, Schedule
from incr_core.objectives import Multiclass
from incr_core.strategies import EWC, Replay, Selective, Strategy


def rows(seed: int, weighted: bool = False) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    weights = torch.rand(45, generator=draw) if weighted else None
    return Batch(torch.randn(45, 4, generator=draw), torch.randint(3, (45,), generator=draw), weights)


def learner(graphs: bool, *strategies: Strategy, **settings: Any) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    adam = partial(torch.optim.Adam, lr=0.01, fused=True)
    settings = {"optimizer": adam, "batch_size": 8, "seed": 5, **settings}
    return Learner(model, Multiclass(3), settings.pop("optimizer"), strategies, graphs=graphs, **settings)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("settings", "strategies"),
    [({}, list), ({"accumulate": 3, "clip": 0.5}, list), ({"accumulate": 2}, lambda: [Replay(capacity=20)])],
    ids=["plain", "clipped", "replay"],
)
def test_steps_are_the_same_to_the_bit(
    settings: dict[str, Any], strategies: Callable[[], list[Strategy]], weighted: bool
) -> None:
    one, other = (learner(graphs, *strategies(), **settings) for graphs in (False, True))
    assert other.why_eager == ""
    for seed in range(2):
        expected, found = (each.learn(rows(seed, weighted)) for each in (one, other))
        assert found.losses == expected.losses
    assert all(torch.equal(value, other.weights()[name]) for name, value in one.weights().items())


@pytest.mark.parametrize(
    ("strategies", "settings", "why"),
    [
        ([EWC], {}, "a strategy weighs rows, adds to the loss or edits gradients"),
        ([Selective], {}, "a strategy weighs rows, adds to the loss or edits gradients"),
        ([], {"precision": "float16"}, 'learner.precision: "float16" checks each gradient'),
        ([], {"optimizer": torch.optim.RMSprop}, "learner.optimizer: RMSprop is not fused here"),
        (
            [],
            {"schedule": Schedule(partial(torch.optim.lr_scheduler.StepLR, step_size=1))},
            "learner.schedule changes the rate at each step",
        ),
    ],
)
def test_what_forbids_recordings_is_told(
    strategies: list[Callable[[], Strategy]], settings: dict[str, Any], why: str
) -> None:
    one = learner(True, *(make() for make in strategies), **settings)
    assert why in one.why_eager
    assert one.graphs is None
    one.learn(rows(0))
