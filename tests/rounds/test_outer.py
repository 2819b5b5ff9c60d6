"""Outer steps against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from incr_core.models._entries import merge_rules
from incr_core.rounds._adaptive_outer import Adagrad, Adam, Yogi
from incr_core.rounds._outer import Mean, Momentum, Nesterov, Outer
from incr_core.storage.packing import pack, unpack

KINDS = [Momentum, Nesterov, Adagrad, Adam, Yogi]


def walk(outer: Outer, means: list[torch.Tensor]) -> list[torch.Tensor]:
    anchor = {"w": torch.zeros_like(means[0])}
    anchors = []
    for mean in means:
        anchor = outer.step(anchor, {"w": mean}, {"w": "mean"})
        anchors.append(anchor["w"])
    return anchors


@pytest.mark.parametrize("kind", [Momentum, Nesterov])
def test_momentum_is_torchs_on_the_pseudo_gradient(kind: type[Momentum | Nesterov]) -> None:
    means = list(torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    weight = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    torchs = torch.optim.SGD([weight], lr=0.7, momentum=0.9, nesterov=kind is Nesterov)
    for found, mean in zip(walk(kind(lr=0.7, momentum=0.9), means), means, strict=True):
        weight.grad = weight.detach() - mean
        torchs.step()
        torch.testing.assert_close(found, weight.detach(), rtol=1e-14, atol=1e-14)


def test_a_constant_pull_sums_a_geometric_series() -> None:
    """From 0 with d = -1 in every round, v_n = -(1 - m^n) / (1 - m), and a step is -lr (d + m v_n)."""
    lr, m, anchor, outer, expected = 0.5, 0.8, {"w": torch.zeros(1, dtype=torch.float64)}, Nesterov(0.5, 0.8), 0.0
    for n in range(1, 8):
        anchor = outer.step(anchor, {"w": anchor["w"] + 1}, {})
        expected += lr * (1 + m * (1 - m**n) / (1 - m))
        assert anchor["w"].item() == pytest.approx(expected, rel=1e-12)


ADAPTIVE = [Adagrad(0.3, 0.5, 0.1), Adam(0.3, 0.5, 0.8, 0.1), Yogi(0.3, 0.5, 0.8, 0.1)]


def by_hand(outer: Adagrad | Adam | Yogi, means: list[float]) -> list[float]:
    """Algorithm 2 of Reddi et al. 2021 on one number."""
    x, m, v, found = 0.0, 0.0, outer.tau**2, []
    for mean in means:
        d = mean - x
        m = outer.beta1 * m + (1 - outer.beta1) * d
        if isinstance(outer, Adagrad):
            v += d**2
        elif isinstance(outer, Yogi):
            v -= (1 - outer.beta2) * d**2 * math.copysign(1, v - d**2)
        else:
            v = outer.beta2 * v + (1 - outer.beta2) * d**2
        x += outer.lr * m / (math.sqrt(v) + outer.tau)
        found.append(x)
    return found


@pytest.mark.parametrize("outer", ADAPTIVE, ids=lambda outer: type(outer).__name__)
def test_adaptive_steps_are_those_of_the_paper(outer: Adagrad | Adam | Yogi) -> None:
    means = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = torch.stack(walk(outer, list(means)))
    for column in range(5):
        expected = by_hand(outer, means[:, column].tolist())
        torch.testing.assert_close(found[:, column], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_a_complex_weight_moves_as_its_parts_do(kind: type[Outer]) -> None:
    pairs = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(2))
    whole, parts = kind(), kind()
    anchor, apart = torch.zeros(3, dtype=torch.complex64), torch.zeros(3, 2)
    for pair in pairs:
        anchor = whole.step({"w": anchor}, {"w": torch.view_as_complex(pair.clone())}, {})["w"]
        apart = parts.step({"w": apart}, {"w": pair}, {})["w"]
        assert torch.equal(torch.view_as_real(anchor), apart)


def test_without_momentum_and_with_lr_1_it_is_the_mean() -> None:
    means = list(torch.randn(4, 50))
    for found, mean in zip(walk(Nesterov(lr=1.0, momentum=0.0), means), means, strict=True):
        torch.testing.assert_close(found, Mean().step({}, {"w": mean}, {})["w"])


@pytest.mark.parametrize("kind", KINDS)
def test_only_weights_are_moved(kind: type[Outer]) -> None:
    """Momentum would carry a running variance that falls below zero."""
    layer, outer = nn.BatchNorm1d(2), kind(lr=0.5)  # type: ignore[call-arg]
    anchor, rules = {name: value.clone() for name, value in layer.state_dict().items()}, merge_rules(layer)
    for scale in (0.5, 0.2, 0.1):
        mean = {name: value * scale if value.is_floating_point() else value + 1 for name, value in anchor.items()}
        following = outer.step(anchor, mean, rules)
        assert torch.equal(following["running_var"], mean["running_var"])
        assert torch.equal(following["num_batches_tracked"], mean["num_batches_tracked"])
        assert not torch.equal(following["weight"], mean["weight"])
        anchor = following


@pytest.mark.parametrize("kind", KINDS)
def test_anchor_and_mean_are_not_written_to(kind: type[Outer]) -> None:
    anchor, mean, outer = {"w": torch.zeros(3)}, {"w": torch.ones(3)}, kind()
    for _ in range(3):
        outer.step(anchor, mean, {})
    assert torch.equal(anchor["w"], torch.zeros(3))
    assert torch.equal(mean["w"], torch.ones(3))


@pytest.mark.parametrize("kind", KINDS)
def test_its_state_comes_back(kind: type[Outer]) -> None:
    means = list(torch.randn(6, 5))
    outer, again = kind(), kind()
    expected = walk(outer, means)
    first = kind()
    middle = walk(first, means[:3])[-1]
    again.load_state_dict(unpack(*pack(first.state_dict())))
    anchor = {"w": middle}
    for mean in means[3:]:
        anchor = again.step(anchor, {"w": mean}, {})
    assert torch.equal(anchor["w"], expected[-1])
