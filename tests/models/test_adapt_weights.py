"""Freezing, LoRA and adapters: what moves, what does not, and what it equals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.errors import ArgumentError
from incr_core.learner import Learner
from incr_core.models.adapt import adapter, bitfit, freeze, head_only, lora, merge_lora
from incr_core.models.adapt._adapter import Bottleneck
from incr_core.models.adapt._lora import LowRank
from incr_core.objectives import Multiclass

Adaptation = Callable[[nn.Module], nn.Module]

HEAVY = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def rows(count: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator)
    return Batch(inputs, inputs[:, :3].argmax(1))


def learn(model: nn.Module, increments: int = 3) -> Learner:
    learner = Learner(model, Multiclass(3), HEAVY, batch_size=16)
    for seed in range(increments):
        learner.learn(rows(200, seed))
    return learner


@pytest.mark.parametrize(
    ("adapt", "learning"),
    [
        (partial(freeze, names=["0", "1", "3.weight"]), {"3.bias", "5.weight", "5.bias"}),
        (partial(freeze, train="*.bias"), {"0.bias", "1.bias", "3.bias", "5.bias"}),
        (bitfit, {"0.bias", "1.bias", "3.bias", "5.weight", "5.bias"}),
        (head_only, {"5.weight", "5.bias"}),
        (partial(lora, rank=2, target="3"), {"3.down", "3.up"}),
        (partial(lora, rank=2, target="*", train="1"), {f"{n}.{p}" for n in (0, 3, 5) for p in ("down", "up")}
         | {"1.weight", "1.bias"}),
        (partial(adapter, width=2, target="3"), {"1.weight", "1.bias", "3.down.weight", "3.down.bias", "3.up.weight",
                                                "3.up.bias"}),
    ],
)  # fmt: skip
def test_only_what_should_learn_moves_under_momentum_and_decay(adapt: Adaptation, learning: set[str]) -> None:
    model = adapt(network())
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    learn(model)
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == learning


def test_every_linear_layer_gets_an_adapter_by_default() -> None:
    """Not the container of all of them alone, behind whose answers there is little to learn."""
    model = adapter(nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 2)), width=2)
    names = [name for name, part in model.named_modules() if isinstance(part, Bottleneck)]
    assert names == ["0.0", "1"]


def test_a_frozen_batch_norm_keeps_its_statistics_and_a_learning_one_does_not() -> None:
    frozen, free = head_only(network()), adapter(network(), target="3")
    before: Tensor = frozen[1].running_mean.clone()  # type: ignore[index]
    learn(frozen)
    learn(free)
    assert torch.equal(frozen[1].running_mean, before)  # type: ignore[index]
    assert not torch.equal(free[1].running_mean, before)  # type: ignore[index]


@pytest.mark.parametrize("adapt", [partial(lora, rank=2), partial(adapter, width=2)])
def test_an_adapted_model_starts_as_the_model(adapt: Adaptation) -> None:
    model = network().eval()
    plain = copy.deepcopy(model)
    inputs = rows(20).inputs
    assert torch.equal(adapt(model).eval()(inputs), plain(inputs))


LAYERS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: nn.Linear(5, 7), torch.randn(4, 3, 5)),
    "embedding": (lambda: nn.Embedding(9, 4, padding_idx=2), torch.randint(9, (4, 3))),
    "convolution": (lambda: nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=2), torch.randn(2, 3, 9, 9)),
    "circular": (lambda: nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"), torch.randn(2, 3, 8, 8)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_merged_low_rank_equals_unmerged_and_is_a_plain_layer(kind: str) -> None:
    make, inputs = LAYERS[kind]
    model = lora(nn.Sequential(make()), rank=2, alpha=6.0)
    layer = model[0]  # type: ignore[index]
    assert isinstance(layer, LowRank)
    nn.init.normal_(layer.up)
    base = layer.base(inputs)
    adapted = model(inputs)
    assert not torch.allclose(adapted, base)
    merged = merge_lora(copy.deepcopy(model))
    assert type(merged[0]) is type(make())  # type: ignore[index]
    torch.testing.assert_close(merged(inputs), adapted)
    assert layer.scale == 3.0
    assert torch.linalg.matrix_rank(layer.change().flatten(1)) == 2


def test_padding_stays_as_it_is() -> None:
    model = lora(nn.Sequential(nn.Embedding(9, 4, padding_idx=2), nn.Flatten(), nn.Linear(8, 3)), rank=2)
    learner = Learner(model, Multiclass(3), partial(torch.optim.SGD, lr=0.5), batch_size=8)
    learner.learn(Batch(torch.randint(9, (200, 2)), torch.randint(3, (200,))))
    entries = model[0](torch.arange(9)) - model[0].base.weight  # type: ignore[index]
    assert (entries.abs().sum(1) > 0).tolist() == [entry != 2 for entry in range(9)]


def test_low_rank_of_full_rank_learns_what_the_layer_could() -> None:
    torch.manual_seed(1)
    data = rows(2000)
    model = lora(nn.Sequential(nn.Linear(6, 3)), rank=3)
    learner = Learner(model, Multiclass(3), partial(torch.optim.SGD, lr=0.5), batch_size=32, epochs=3)
    before = learner.predict(data.inputs)
    learner.learn(data)
    right = (learner.predict(data.inputs).argmax(1) == data.targets).float().mean()
    assert right > 0.9 > (before.argmax(1) == data.targets).float().mean()


@pytest.mark.parametrize(
    ("adapt", "message"),
    [
        (partial(lora, target="layers.*"), r"lora.target: expected a pattern that matches a Linear or Embedding"),
        (partial(lora, rank=0), r"lora.rank: expected 1 or more, got 0"),
        (partial(lora, alpha=-1.0), r"lora.alpha: expected a number above 0"),
        (partial(lora, train="hed"), r"lora.train: expected a pattern that matches a weight, got 'hed'"),
        (partial(adapter, width=0), r"adapter.width: expected 1 or more"),
        (partial(adapter, target="2"), r"adapter.target: expected modules that hold an nn.Linear, got 2"),
        (partial(freeze), r"freeze: expected either names .* or train"),
        (partial(freeze, names="9.*"), r"freeze.names: expected a pattern that matches a weight, got '9.\*'"),
        (partial(freeze, names="*"), r"freeze.names: expected a weight to be left"),
        (partial(bitfit, train="x"), r"bitfit.train: expected a pattern that matches a weight, got 'x'"),
    ],
)
def test_what_cannot_be_meant_is_refused(adapt: Adaptation, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        adapt(network())


def test_grouped_convolutions_are_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match=r"expected convolutions of one group, got 0 with 2"):
        lora(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)))
