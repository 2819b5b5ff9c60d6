"""The Fisher diagonal against closed forms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.objectives import Binary, Multiclass, Regression
from incr_core.strategies._mas import sensitivity
from incr_core.strategies.mechanisms import fisher_diagonal


def inputs_of(rows: int = 150, features: int = 4) -> Tensor:
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_softmax_regression() -> None:
    """F of W_cj is mean p_c (1 - p_c) x_j^2, and of b_c mean p_c (1 - p_c): labels play no part."""
    x, model = inputs_of(), nn.Linear(4, 5).double()
    p = model(x).detach().softmax(1)
    found = fisher_diagonal(model, Multiclass(5), Batch(x, torch.zeros(150, dtype=torch.long)), chunk=64)
    variance = p * (1 - p)
    torch.testing.assert_close(found["weight"], variance.T @ x.square() / 150, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found["bias"], variance.mean(0), rtol=1e-6, atol=1e-9)


def test_logistic_regression() -> None:
    x, model = inputs_of(), nn.Linear(4, 1).double()
    p = model(x).detach().sigmoid()
    found = fisher_diagonal(model, Binary(), Batch(x, torch.ones(150)))
    torch.testing.assert_close(found["weight"], (p * (1 - p)).T @ x.square() / 150, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found["bias"], (p * (1 - p)).mean(0), rtol=1e-6, atol=1e-9)


class Choosy(nn.Linear):
    """Asks for the values of its inputs, which vmap cannot tell."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs if inputs.isfinite().all() else inputs.nan_to_num())


def test_a_model_that_knows_no_vmap_has_the_same_information_row_after_row() -> None:
    torch.manual_seed(0)
    plain, choosy = nn.Linear(4, 3).double(), Choosy(4, 3).double()
    choosy.load_state_dict(plain.state_dict())
    rows = Batch(inputs_of(), torch.zeros(150, dtype=torch.long))
    for name, expected in fisher_diagonal(plain, Multiclass(3), rows).items():
        torch.testing.assert_close(fisher_diagonal(choosy, Multiclass(3), rows)[name], expected)
    for name, expected in sensitivity(plain, rows).items():
        torch.testing.assert_close(sensitivity(choosy, rows)[name], expected)


class Recurrent(nn.Module):
    """A recurrent layer, of which vmap can map none but an LSTM; torch says so in words of its own for each kind."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.layer = kind(1, 3, batch_first=True)
        self.head = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.head(self.layer(inputs[..., None])[0][:, -1])
        return output


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_have_the_information_of_their_rows_one_by_one(kind: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    model = Recurrent(kind).double()
    inputs = inputs_of(8)
    expected = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    for place in range(8):
        odds = model(inputs[place : place + 1]).log_softmax(1)[0]
        for log_odds in odds:
            gradients = torch.autograd.grad(log_odds, list(model.parameters()), retain_graph=True)
            for total, gradient in zip(expected.values(), gradients, strict=True):
                total += log_odds.detach().exp() * gradient.square() / 8
    found = fisher_diagonal(model, Multiclass(2), Batch(inputs, torch.zeros(8, dtype=torch.long)))
    assert all(torch.allclose(found[name], value) for name, value in expected.items())


def test_linear_regression() -> None:
    x, model = inputs_of(), nn.Linear(4, 1).double()
    found = fisher_diagonal(model, Regression(), Batch(x, torch.ones(150)))
    torch.testing.assert_close(found["weight"], x.square().mean(0)[None])


def test_many_classes_are_drawn_without_bias() -> None:
    x, model, rows = inputs_of(1, 2).expand(20_000, -1), nn.Linear(2, 20).double(), 20_000
    p = model(x[:1]).detach().softmax(1)[0]
    generator = torch.Generator().manual_seed(0)
    found = fisher_diagonal(model, Multiclass(20), Batch(x, torch.zeros(rows)), generator, chunk=rows)
    torch.testing.assert_close(found["bias"], p * (1 - p), rtol=0.15, atol=0)


def test_a_deep_model_against_a_loop_over_rows_and_classes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    model[4].weight.requires_grad_(False)
    model.train()(inputs_of())
    x = inputs_of(9)
    found = fisher_diagonal(model, Multiclass(3), Batch(x, torch.zeros(9)), chunk=4)
    assert model.training
    assert "4.weight" not in found
    model.eval()
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    expected = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for row in x:
        logs = model(row[None]).log_softmax(1)[0]
        for log in logs:
            gradients = torch.autograd.grad(log, list(weights.values()), retain_graph=True)
            for total, gradient in zip(expected.values(), gradients, strict=True):
                total += log.detach().exp() * gradient.square() / 9
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_do_not_matter(chunk: int) -> None:
    model, batch = nn.Linear(4, 1).double(), Batch({"x": inputs_of()}, torch.ones(150))
    wrapped = Named(model)
    expected = fisher_diagonal(model, Binary(), Batch(inputs_of(), torch.ones(150)))["weight"]
    torch.testing.assert_close(fisher_diagonal(wrapped, Binary(), batch, chunk=chunk)["model.weight"], expected)


class Named(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        output: Tensor = self.model(inputs["x"])
        return output


def test_gradients_at_hand_are_left_alone() -> None:
    model = nn.Linear(4, 1).double()
    model(inputs_of()).sum().backward()
    assert model.weight.grad is not None
    before = model.weight.grad.clone()
    fisher_diagonal(model, Binary(), Batch(inputs_of(), torch.ones(150)))
    assert torch.equal(model.weight.grad, before)


def test_a_layer_that_stands_in_two_places_counts_in_both_and_is_left_as_it_was() -> None:
    layer = nn.Linear(1, 1, bias=False)
    weight = layer.weight
    nn.init.constant_(weight, 0.5)
    model = nn.Sequential(layer, layer)
    batch = Batch(torch.tensor([[3.0]]), torch.ones(1))
    p = torch.sigmoid(torch.tensor(0.5 * 0.5 * 3.0))
    fisher = fisher_diagonal(model, Binary(), batch)["0.weight"]
    assert torch.allclose(fisher, p * (1 - p) * (2 * 0.5 * 3.0) ** 2)
    assert torch.allclose(sensitivity(model, batch)["0.weight"], torch.tensor(4 * 0.5**3 * 3.0**2))
    assert layer.weight is weight
    assert weight.item() == 0.5
