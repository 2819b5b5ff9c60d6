"""The experts of a table: what they are given, and that what is solved is a ridge regression."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from incr_core.models import TableExperts, TableShape
from incr_core.models._magnitudes import Magnitudes
from incr_core.models._solved_experts import PENALTY, SolvedExperts


def absorb(model: torch.nn.Module, measured: dict[str, Tensor]) -> None:
    for name, value in measured.items():
        model.get_buffer(name).add_(value)


def test_a_wild_number_moves_the_scale_by_five_deviations_at_most() -> None:
    model = TableExperts(TableShape(numeric=1, categorical=0, buckets=2, outputs=4))
    draw = torch.Generator().manual_seed(0)
    absorb(model, model.observe(torch.randn(100, 1, generator=draw)))
    absorb(model, model.observe(torch.tensor([[1e9]])))
    mean, std = model.moments.scale()
    assert abs(float(mean)) < 0.3
    assert float(std) < 1.3


def test_two_workers_observe_what_one_does() -> None:
    model = TableExperts(TableShape(numeric=3, categorical=0, buckets=2, outputs=4))
    draw = torch.Generator().manual_seed(0)
    rows, targets = torch.randn(64, 3, generator=draw).exp(), torch.randn(64, 1, generator=draw).double()
    for _ in range(2):  # the first rows of all are not solved from
        absorb(model, model.observe(rows) | model.observe_labelled(rows, targets))
    whole = model.observe(rows) | model.observe_labelled(rows, targets)
    parts = [
        model.observe(rows[at]) | model.observe_labelled(rows[at], targets[at]) for at in (slice(20), slice(20, 64))
    ]
    for name, value in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], value, rtol=1e-12, atol=1e-12)


def test_columns_without_missing_or_skewed_numbers_cost_nothing() -> None:
    """The MLP's first layer is as if they were not there, at first and after a step."""
    model = TableExperts(TableShape(numeric=4, categorical=0, buckets=2, outputs=4), hidden=[8])
    rows = torch.randn(32, 4)
    absorb(model, model.observe(rows))
    assert not model.more.weight.any()
    model(rows).sum().backward()
    assert model.more.weight.grad is not None
    assert not model.more.weight.grad.any()
    missing = rows.clone()
    missing[0, 0] = torch.nan
    model(missing).sum().backward()
    assert bool(model.more.weight.grad[:, 0].any())
    assert not model.more.weight.grad[:, 1:].any()


def test_magnitudes_are_of_skewed_columns_without_negative_numbers() -> None:
    draw = torch.Generator().manual_seed(0)
    normal = torch.randn(500, 1, generator=draw)
    rows = torch.cat([normal.exp() * 1e-3, (2 * normal).exp() * 1e6, normal, 50 + 9 * normal], dim=1)
    magnitudes = Magnitudes(4)
    absorb(magnitudes, magnitudes.measure(rows, rows))
    found = magnitudes(rows)
    expected = (normal - normal.mean()) / normal.std(correction=0)
    torch.testing.assert_close(found[:, :2], expected.expand(-1, 2).clamp(-4, 4), rtol=1e-4, atol=1e-4)
    assert not found[:, 2:].any()
    assert magnitudes(torch.tensor([[0.0, torch.nan, 0.0, 0.0]])).tolist() == [[-3.0, 0.0, 0.0, 0.0]]


def test_what_is_solved_is_the_ridge_of_the_rows() -> None:
    experts = SolvedExperts(inputs=2, outputs=1, varied=2, features=16)
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 2, generator=draw), torch.randn(80, 1, generator=draw).double()
    absorb(experts, experts.measure(x, y))  # only counted
    assert not experts(x).any()
    absorb(experts, experts.measure(x, y))
    fresh, now = 2 ** (80 / 4000), 2 ** (160 / 4000)
    features = experts._features(x).double().numpy()
    for place, h in enumerate((features[:, :2], features)):
        centred, target = h - h.mean(0), y.numpy() - y.numpy().mean()
        gram = fresh * centred.T @ centred + PENALTY * now * np.eye(h.shape[1])
        weight = np.linalg.solve(gram, fresh * centred.T @ target)
        expected = torch.from_numpy(centred @ weight + y.numpy().mean()).float()
        torch.testing.assert_close(experts(x)[:, [place]], expected, rtol=1e-4, atol=1e-4)
