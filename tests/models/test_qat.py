"""Quantisation-aware layers: the values and gradients of their formulas, and ranges that only learning moves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from incr_core.batch import Batch
from incr_core.errors import ArgumentError
from incr_core.learner import Learner
from incr_core.learner._private_step import why_not_private
from incr_core.models import dequantised, quantised
from incr_core.models.adapt import ActivationRange, fold_weights, magnitude_pruning, qat
from incr_core.objectives import Binary
from incr_core.strategies import Pruning
from incr_core.update import merge


def rows(count: int = 64, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(count, 6, generator=draw), torch.randint(0, 2, (count,), generator=draw).float())


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))


def aware(rate: float = 0.01) -> nn.Sequential:
    model = qat(network(), rate=rate)
    assert isinstance(model, nn.Sequential)
    return model


def layer_of(model: nn.Module) -> nn.Linear:
    """The first layer, without the rounding of its inputs."""
    layer = model.get_submodule("0.base")
    assert isinstance(layer, nn.Linear)
    return layer


def test_a_layer_computes_with_rounded_weights_and_inputs() -> None:
    plain, model = network(), aware()
    x = rows().inputs
    assert isinstance(x, torch.Tensor)
    model(x)
    model.eval()
    low, high = float(x.min()), float(x.max())
    scale = (high - low) / 255
    zero = round(-low / scale)
    rounded = (((x / scale).round() + zero).clamp(0, 255) - zero) * scale
    first = plain[0]
    assert isinstance(first, nn.Linear)
    weight = dequantised(*quantised(first.weight.detach()))
    expected = rounded @ weight.T + first.bias
    torch.testing.assert_close(model[0](x), expected, atol=1e-6, rtol=1e-5)
    assert float((model[0](x) - plain[0](x)).detach().abs().max()) > 1e-4


def test_gradients_pass_through_the_rounding_and_stop_outside_of_the_range() -> None:
    inputs = ActivationRange()
    inputs(torch.tensor([-1.0, 2.0]))
    inputs.eval()
    x = torch.tensor([-1.5, -0.7, 0.0, 1.9, 2.5], requires_grad=True)
    inputs(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    model = aware()
    layer_of(model)(torch.ones(1, 6)).sum().backward()
    gradient = model.get_parameter("0.base.parametrizations.weight.original").grad
    assert gradient is not None
    assert torch.equal(gradient, torch.ones(16, 6))


def test_only_learning_moves_a_range() -> None:
    learner = Learner(aware(rate=0.5), Binary(), "sgd", batch_size=32)
    learner.learn(rows())
    before = {name: value.clone() for name, value in learner.weights().items()}
    assert before["model.0.inputs.ends"].tolist() != [0.0, 0.0]
    first = learner.predict(rows(seed=1).inputs)
    assert torch.equal(learner.predict(rows(seed=1).inputs), first)
    assert all(torch.equal(value, before[name]) for name, value in learner.weights().items())
    x = rows(seed=2).inputs
    assert isinstance(x, torch.Tensor)
    learner.learn(rows(32, seed=2))
    ends = torch.stack(x[:32].aminmax())
    expected = before["model.0.inputs.ends"].lerp(ends, 0.5)
    torch.testing.assert_close(learner.weights()["model.0.inputs.ends"], expected)


def test_ranges_merge_as_the_mean_by_rows() -> None:
    learners = [Learner(aware(), Binary(), "sgd", batch_size=32) for _ in range(2)]
    updates = [learner.learn(rows(count, seed=count)) for learner, count in zip(learners, (32, 96), strict=True)]
    name = "model.0.inputs.ends"
    ends = [update.weights[name] for update in updates]
    merged = merge(ends, [0.25, 0.75], learners[0].rules()[name], anchor=None)
    torch.testing.assert_close(merged, 0.25 * ends[0] + 0.75 * ends[1])


def test_rounding_a_rounded_weight_again_changes_nothing() -> None:
    model = aware()
    fold_weights(model)
    weight = layer_of(model).weight.detach()
    torch.testing.assert_close(dequantised(*quantised(weight)), weight, rtol=1e-6, atol=0)
    assert type(layer_of(model)) is nn.Linear


def test_a_pruned_model_learns_with_rounded_weights_and_keeps_its_zeros() -> None:
    learner = Learner(qat(magnitude_pruning(network())), Binary(), "adam", [Pruning(sparsity=0.5, over=1)])
    for seed in range(3):
        learner.learn(rows(seed=seed))
    fold_weights(learner.model)
    zeros = [int((part.weight == 0).sum()) for part in learner.model.modules() if isinstance(part, nn.Linear)]
    assert sum(zeros) >= 56


def test_layers_that_cannot_be_rounded_and_rows_that_must_be_hidden_are_refused() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 1)

    with pytest.raises(ArgumentError, match=r"qat.target: expected layers that are called, got attention.out_proj"):
        qat(Attending())
    with pytest.raises(ArgumentError, match=r"qat.rate: expected a number from 0 to 1, got 2"):
        qat(network(), rate=2)
    assert "ranges of activations without noise" in why_not_private(Learner(aware(), Binary(), "sgd"))
