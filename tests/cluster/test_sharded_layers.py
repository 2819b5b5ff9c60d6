"""Law 4 for models that FSDP is particular about: layers that share, are not called, or cannot be sharded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from cluster import _process_groups as groups
from cluster._fsdp_units import units_of
from cluster._rank import Rank
from incr_core.errors import JobError
from incr_core.models import same_bits
from incr_core.objectives import Multiclass
from incr_core.strategies.mechanisms import fisher_diagonal
from tests.support.every_dtype import MERGEABLE
from tests.support.sharded_learners import Layers, behind, gap, learned_alone, learned_in_shards, rows
from tests.support.shards import TwoShards

pytestmark = pytest.mark.ray


WAYS = [
    "tied",
    "tied to what is outside",
    "twice in the list",
    "in the list and outside",
    "within two layers",
    "lists in a list",
    "not contiguous",
    "two types",
    "without elements",
]


@pytest.mark.parametrize("how", WAYS)
def test_a_model_put_together_in_any_way_learns_the_same_in_shards(how: str, two_shards: TwoShards) -> None:
    make = partial(Layers, how)
    (first, divides), (second, _) = two_shards.run(learned_in_shards, make, {})
    assert divides
    assert all(value.equal(second[name]) for name, value in first.items())
    assert gap(first, learned_alone(make)) < 1e-6


OF_FROZEN = [kind for kind in MERGEABLE if kind is not torch.complex32]  # torch warns of that one


class OfEveryType(nn.Module):
    """A layer beside frozen numbers of each type, as quantised models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        for kind in OF_FROZEN:
            frozen = nn.Parameter(torch.ones(3).to(kind), requires_grad=False)
            self.register_parameter(str(kind).replace("torch.", "of_"), frozen)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x)
        return output


def test_frozen_weights_of_every_type_stay_as_they_are(two_shards: TwoShards) -> None:
    (first, _), (second, _) = two_shards.run(learned_in_shards, OfEveryType, {})
    alone = learned_alone(OfEveryType)
    assert len(alone) == 2 + len(OF_FROZEN)
    for name, value in alone.items():
        assert first[name].dtype == value.dtype
        if "linear" not in name:
            assert same_bits(first[name], value)
            assert same_bits(second[name], value)


def test_layers_are_gathered_one_at_a_time_unless_they_share_a_parameter() -> None:
    def alone(how: str) -> list[bool]:
        model = Layers(how)
        units = units_of(model)
        assert units[-1] is model
        return [layer in units for layer in model.layers]

    assert alone("plain") == [True, True, True]
    assert alone("tied") == [False, False, True]
    assert alone("tied to what is outside") == [False, True, True]
    assert alone("twice in the list") == [True, True, True]
    assert alone("in the list and outside") == [True, True, True]
    assert alone("within two layers") == [False, False, True]


def with_scalar() -> nn.Module:
    model = nn.Linear(4, 3)
    model.scale = nn.Parameter(torch.tensor(1.0))
    return model


def in_one_memory() -> nn.Module:
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.weight = nn.Parameter(one.weight.detach()[1:])
    return nn.Sequential(one, other)


def mixed_leaf() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    model[0].bias = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    return model


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (with_scalar, "got scale, a single number without a dimension; give it the shape (1,)"),
        (in_one_memory, "got 1.weight, in the memory of another, 0.weight; make both one nn.Parameter"),
        (mixed_leaf, "got 0.bias, float64 where 0.weight is float32, and the two must be gathered together; "),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "got 0.weight, not made yet; "),
        (lambda: nn.Embedding(9, 4, max_norm=1.0), "got weight, of an Embedding with max_norm, "),
        (lambda: behind(nn.EmbeddingBag(9, 4, max_norm=1.0)), "got 0.weight, of an EmbeddingBag with max_norm, "),
        (lambda: nn.Sequential(nn.Embedding(9, 4, sparse=True)), "got 0.weight, of an Embedding with sparse gradients"),
    ],
)
def test_what_cannot_be_sharded_is_refused_by_name(make: Callable[[], nn.Module], told: str) -> None:
    model = make()
    with pytest.raises(JobError) as raised:
        groups.shard_model(model, Rank(0, 1, 0, 2), "cpu")
    message = str(raised.value)
    assert message.startswith("cluster.shards: expected parameters that can be sharded, " + told), message
    assert message.endswith(", or set shards = 1")


def hooked_fisher(place: Rank | None) -> Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    if place is not None:
        groups.shard_model(model, place, "cpu")
    model[0].register_forward_hook(lambda _, __, output: 3 * output)
    return fisher_diagonal(model, Multiclass(3), rows())["0.weight"]


def test_the_hooks_of_others_are_called_where_sharded_weights_are_gathered(two_shards: TwoShards) -> None:
    for found in two_shards.run(hooked_fisher):
        assert (found - hooked_fisher(None)).abs().max() < 1e-7
