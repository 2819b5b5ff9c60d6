"""Learners of small models, alone and in two shards, and models that both may be given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cluster import _process_groups as groups
from cluster._rank import Rank
from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.numerics import whole
from incr_core.objectives import Multiclass

__all__ = [
    "Centred",
    "Layers",
    "behind",
    "gap",
    "held",
    "learned_alone",
    "learned_in_shards",
    "learner_of",
    "rows",
    "sharded",
]


def rows(count: int = 45, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(count, 4, generator=draw), torch.randint(0, 3, (count,), generator=draw))


def learner_of(model: nn.Module, shard: tuple[int, int] = (0, 1), **settings: Any) -> Learner:
    """Batches of 8 rows, the last of one; two to a step, whose gradient is clipped."""
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    return Learner(model, Multiclass(3), sgd, batch_size=8, accumulate=2, clip=1.0, shard=shard, **settings)


def sharded(make: Callable[[], nn.Module], place: Rank, **settings: Any) -> Learner:
    torch.manual_seed(0)
    return learner_of(groups.shard_model(make(), place, "cpu"), (place.shard, place.shards), **settings)


def held(learner: Learner) -> dict[str, Tensor]:
    return {name: whole(value).clone() for name, value in learner.weights().items()}


def learned_in_shards(place: Rank, make: Callable[[], nn.Module], settings: dict[str, Any]) -> tuple[Any, bool]:
    learner = sharded(make, place, **settings)
    for seed in range(2):
        learner.learn(rows(seed=seed))
    return held(learner), learner.divides


def learned_alone(make: Callable[[], nn.Module], **settings: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    learner = learner_of(make(), **settings)
    for seed in range(2):
        learner.learn(rows(seed=seed))
    return held(learner)


def gap(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((value.detach() - other[name]).abs().max()) for name, value in one.items() if value.numel())


class Centred(nn.Module):
    """Takes off a moving mean of all rows; `mean` is moved in place, and `count` counts rows."""

    merge: ClassVar[dict[str, str]] = {"count": "sum"}

    mean: Tensor
    count: Tensor
    batches: Tensor

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
            self.count += len(x)
            self.batches += 1
        return x - self.mean


def behind(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


class Layers(nn.Module):
    """Three layers in a list, put together in one way or another."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)])
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        if how == "tied":
            self.layers[1].weight = first.weight
        elif how == "tied to what is outside":
            self.other = nn.Linear(4, 4)
            self.other.weight = first.weight
        elif how == "twice in the list":
            self.layers[1] = first
        elif how == "in the list and outside":
            self.other = first
        elif how == "within two layers":
            self.layers[0], self.layers[1] = nn.Sequential(first, nn.ReLU()), nn.Sequential(nn.Linear(4, 4), first)
        elif how == "lists in a list":
            self.layers[0] = nn.ModuleList([first])
        elif how == "not contiguous":
            first.weight = nn.Parameter(first.weight.detach().t())
        elif how == "two types":
            self.other, self.head = nn.Linear(4, 4).double(), nn.Linear(3, 3)
        elif how == "without elements":
            self.nothing = nn.Parameter(torch.zeros(0, 4))
        elif how == "not called":
            self.other = first

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        if self.how == "not called":
            assert isinstance(first, nn.Linear)
            x = F.linear(x, first.weight)
        else:
            x = (first[0] if isinstance(first, nn.ModuleList) else first)(x).relu()
        x = second(x)
        if hasattr(self, "other"):
            x = self.other(x.to(self.other.weight.dtype)).float()
        output: Tensor = last(x)
        if hasattr(self, "head"):
            output = self.head(output)
        return output
