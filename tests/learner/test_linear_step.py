"""A linear model's gradient, written down: autograd's to the bit, and left to autograd wherever somebody looks on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.learner._linear_step import linear_backward
from incr_core.objectives import Binary, GrowingMulticlass, Multiclass, Objective, Regression
from incr_core.objectives._losses import Huber

OBJECTIVES: dict[str, Callable[[], Objective]] = {"binary": Binary, "multiclass": lambda: Multiclass(5)}


def rows(objective: Objective, count: int, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 7, generator=draw) * 3
    if isinstance(objective, Multiclass):
        return Batch(inputs, torch.randint(objective.outputs, (count,), generator=draw))
    if isinstance(objective, Binary):
        return Batch(inputs, torch.randint(2, (count,), generator=draw).float())
    return Batch(inputs, torch.randn(count, generator=draw, dtype=torch.float64) * 5 + 3)


def regression() -> Regression:
    objective = Regression()
    objective.target.add(objective.observe(rows(objective, 50).targets)["target.sums"])
    return objective


OBJECTIVES["regression"] = regression


@pytest.mark.parametrize("count", [1, 2, 3, 10, 64, 129])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_is_the_gradient_of_autograd_to_the_bit(name: str, bias: bool, count: int) -> None:
    objective = OBJECTIVES[name]()
    model = nn.Linear(7, objective.outputs, bias=bias)
    batch = rows(objective, count, seed=count)
    loss = objective(model(batch.inputs), batch.targets)
    loss.backward()
    expected = [weight.grad for weight in model.parameters()]
    model.zero_grad()
    found = linear_backward(model, objective, batch)
    assert found is not None
    assert torch.equal(found, loss.detach())
    for weight, gradient in zip(model.parameters(), expected, strict=True):
        assert weight.grad is not None
        assert gradient is not None
        assert torch.equal(weight.grad, gradient)


class Linear(nn.Linear):
    """The same layer under another name, which autograd has to differentiate."""


def learned(kind: type[nn.Linear], objective: Objective, **options: int) -> tuple[Learner, dict[str, float]]:
    torch.manual_seed(0)
    descent = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    learner = Learner(kind(7, objective.outputs), objective, descent, **options)  # type: ignore[arg-type]
    losses = {}
    for day in range(4):
        losses = dict(learner.learn(rows(objective, 20, seed=day)).losses)
    return learner, losses


@pytest.mark.parametrize(
    "options", [{"batch_size": 64}, {"batch_size": 6, "epochs": 2}, {"batch_size": 6, "accumulate": 3}]
)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_learner_learns_the_same_bits(name: str, options: dict[str, int]) -> None:
    one, losses = learned(nn.Linear, OBJECTIVES[name](), **options)
    other, expected = learned(Linear, OBJECTIVES[name](), **options)
    assert losses == expected
    assert one.context.step == other.context.step
    for key, weight in other.weights().items():
        assert torch.equal(one.weights()[key], weight), key


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_who_looks_on_is_called() -> None:
    calls: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        return lambda *_: calls.append(name)

    objective = Binary()
    batch = rows(objective, 4)
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_pre_hook"):
        model = nn.Linear(7, 1)
        getattr(model, register)(watch(register))
        assert linear_backward(model, objective, batch) is None
        Learner(model, objective, torch.optim.SGD).learn(batch)
    model = nn.Linear(7, 1)
    model.weight.register_hook(watch("weight"))  # type: ignore[no-untyped-call]
    model.bias.register_post_accumulate_grad_hook(watch("bias"))  # type: ignore[no-untyped-call]
    Learner(model, objective, torch.optim.SGD).learn(batch)
    assert set(calls) == {
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_pre_hook",
        "weight",
        "bias",
    }


def test_a_weight_held_fixed_stays() -> None:
    model = nn.Linear(7, 1)
    model.bias.requires_grad_(False)
    before = model.bias.clone()
    learner = Learner(model, Binary(), torch.optim.SGD)
    learner.learn(rows(Binary(), 8))
    assert torch.equal(model.bias, before)
    assert model.bias.grad is None


class Doubled(Binary):
    """A loss of one's own, which has another slope."""

    def forward(self, output: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        return 2 * super().forward(output, targets, weights)


def test_a_loss_redefined_has_the_slope_of_what_it_is() -> None:
    for objective in (GrowingMulticlass(5), Doubled()):
        batch = rows(objective, 20)
        if isinstance(objective, GrowingMulticlass):
            batch.targets.clamp_(max=2)  # the last two classes are not seen
        learners = []
        for kind in (nn.Linear, Linear):
            torch.manual_seed(0)
            descent = partial(torch.optim.SGD, lr=0.1)
            learners.append(Learner(kind(7, objective.outputs), objective, descent, batch_size=20))
        losses = [learner.learn(batch).losses for learner in learners]
        assert losses[0] == losses[1]
        for one, other in zip(*(learner.model.parameters() for learner in learners), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("case", ["weights", "robust", "steps", "forward", "objective", "half"])
def test_is_left_to_autograd(case: str) -> None:
    model, objective = nn.Linear(7, 1), Regression(Huber()) if case == "robust" else Binary()
    if case == "half":
        model, objective = model.bfloat16(), regression()
    batch = rows(objective, 4)
    if case == "half":
        batch.inputs = batch.inputs.bfloat16()  # type: ignore[union-attr]
    if case == "objective":
        objective.register_forward_hook(lambda *_: None)
    if case == "weights":
        batch.weights = torch.ones(4)
    if case == "steps":  # (B, T, F)
        batch.inputs = torch.zeros(4, 2, 7)
    if case == "forward":

        def doubled(inputs: Tensor) -> Tensor:
            return 2 * nn.Linear.forward(model, inputs)

        model.forward = doubled  # type: ignore[method-assign, assignment]
    assert linear_backward(model, objective, batch) is None
    assert model.weight.grad is None


class Noticing(nn.Dropout):
    """Dropout that notes in which mode it ran."""

    def __init__(self) -> None:
        super().__init__(0.5)
        self.modes: list[bool] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.modes.append(self.training)
        return super().forward(inputs)


def test_a_layer_with_two_modes_is_put_in_the_right_one() -> None:
    noticing = Noticing()
    learner = Learner(nn.Sequential(nn.Linear(7, 1), noticing), Binary(), torch.optim.SGD)
    batch = rows(Binary(), 8)
    for _ in range(2):
        learner.predict(batch.inputs)
        learner.learn(batch)
    learner.loss_of(batch)
    assert noticing.modes == [False, True, False, True, False]
    norm = nn.BatchNorm1d(7)
    learner = Learner(nn.Sequential(norm, nn.Linear(7, 1)), Binary(), torch.optim.SGD)
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    learner.predict(batch.inputs)
    assert torch.equal(norm.running_mean, before)
    learner.learn(batch)
    assert not torch.equal(norm.running_mean, before)
    learner.predict(batch.inputs)
    assert not norm.training
