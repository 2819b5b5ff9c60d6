"""Does a model treat each row of a batch alone? Asked of layers and forwards of all sorts."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from incr_core.batch import Batch
from incr_core.errors import JobError
from incr_core.learner._independence import rows_independent
from incr_core.models import TableMLP, TableShape, TokenCNN, TwoTower
from incr_core.models.adapt import lora, nearest_mean, task_heads, with_task
from incr_core.objectives import Multiclass, NextToken, Objective


def rows(count: int = 16) -> Batch:
    draw = torch.Generator().manual_seed(0)
    return Batch(torch.randn(count, 4, generator=draw), torch.randint(0, 3, (count,), generator=draw))


class Own(nn.Module):
    """A linear layer, with a forward of somebody's own around it."""

    def __init__(self, way: Callable[[Any, Tensor], Any], **held: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.way = way
        for name, value in held.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.way(self, x)
        return output


class Normalised(torch.autograd.Function):
    """The identity, whose gradient is brought to norm 1 over all rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient / gradient.norm()


def moving(own: Any, x: Tensor) -> Any:
    own.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
    return own.linear(x - own.mean)


def reassigned(own: Any, x: Tensor) -> Any:
    own.mean = 0.9 * own.mean + 0.1 * x.detach().mean(0)
    return own.linear(x)


def counting(own: Any, x: Tensor) -> Any:
    own.calls += 1
    return own.linear(x)


def listing(own: Any, x: Tensor) -> Any:
    own.seen.append(len(x))
    return own.linear(x)


def untold(own: Any, x: Tensor) -> Any:
    own.hidden[0].add_(1)
    own.plain.add_(x.detach().sum())
    return own.linear(x)


def masked(own: Any, x: Tensor) -> Any:
    output = own.linear(x).clone()
    output[x[:, 0] > 0] *= 2
    return output


def levelled(own: Any, x: Tensor) -> Any:
    return Normalised.apply(own.linear(x))  # type: ignore[no-untyped-call]


def hooked(own: Any, x: Tensor) -> Any:
    output = own.linear(x)
    if output.requires_grad:
        output.register_hook(lambda gradient: gradient / gradient.norm())
    return output


def with_plain_tensors() -> nn.Module:
    own = Own(untold, hidden=(torch.zeros(1),))
    own.__dict__["plain"] = torch.zeros(1)
    return own


def frozen_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3).eval())


def folded(*layers: nn.Module, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (2, 2)), *layers, nn.Flatten(), nn.Linear(width, 3))


ALONE: dict[str, Callable[[], nn.Module]] = {
    "perceptron": lambda: nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)),
    "own forward": lambda: Own(lambda own, x: own.linear(x).tanh()),
    "BatchNorm in eval": frozen_norm,
    "InstanceNorm without statistics": lambda: folded(nn.InstanceNorm1d(2)),
    "attention within a row": lambda: folded(nn.TransformerEncoderLayer(2, 1, 4, dropout=0.0, batch_first=True)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
}
TOGETHER: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm": lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
    "InstanceNorm with statistics": lambda: folded(nn.InstanceNorm1d(2, track_running_stats=True)),
    "rows centred": lambda: Own(lambda own, x: own.linear(x - x.mean(0))),
    "rows centred by weights that are 0": lambda: Own(
        lambda own, x: own.linear(x - own.much[0] * own.much[1] * x.mean(0)), much=nn.Parameter(torch.zeros(2))
    ),
    "softmax over rows": lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(0)),
    "attention between rows": lambda: folded(nn.TransformerEncoderLayer(2, 1, 4, dropout=0.0)),
    "by how many rows there are": lambda: Own(lambda own, x: own.linear(x) * (2 if len(x) > 10 else 1)),
    "by whether one row is alone": lambda: Own(lambda own, x: own.linear(x) * (2 if len(x) > 1 else 1)),
    "a gradient normalised over rows": lambda: Own(levelled),
    "a gradient normalised in a hook": lambda: Own(hooked),
    "Dropout": lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)),
    "Dropout that hardly drops": lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(1e-6)),
    "Python's random": lambda: Own(lambda own, x: own.linear(x) * random.random()),
    "a moving mean": lambda: Own(moving, mean=torch.zeros(4)),
    "a moving mean, assigned": lambda: Own(reassigned, mean=torch.zeros(4)),
    "a count of calls": lambda: Own(counting, calls=0),
    "a list that grows": lambda: Own(listing, seen=[]),
    "tensors that torch knows nothing of": with_plain_tensors,
    "a branch": lambda: Own(lambda own, x: own.linear(x) if x.mean() > -100 else -own.linear(x)),
    "a branch on a list": lambda: Own(lambda own, x: own.linear(x) * (1 if x.tolist()[0][0] > -100 else 2)),
    "a branch in numpy": lambda: Own(lambda own, x: own.linear(x) * (1 if x.numpy().mean() > -100 else 2)),
    "a branch on equality": lambda: Own(lambda own, x: own.linear(x) * (1 if torch.equal(x, x) else 2)),
    "a mask": lambda: Own(masked),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)),
}


@pytest.mark.parametrize(
    ("make", "expected"),
    [*((make, True) for make in ALONE.values()), *((make, False) for make in TOGETHER.values())],
    ids=[*ALONE, *TOGETHER],
)
def test_a_model_is_told_from_one_try_which_leaves_no_trace(make: Callable[[], nn.Module], expected: bool) -> None:
    torch.manual_seed(0)
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held = {module: dict(vars(module)) for module in model.modules()}
    chance = torch.get_rng_state()
    assert rows_independent(model, Multiclass(3), rows(), 2) is expected
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(vars(module) == was for module, was in held.items())
    assert torch.get_rng_state().equal(chance)
    assert getattr(model, "seen", []) == []
    assert float(getattr(model, "plain", torch.zeros(1))) == 0.0
    assert all(weight.grad is None for weight in model.parameters())


class Balanced(Multiclass):
    """Each row counts by how rare its class is in the batch, which `rowwise` does not say."""

    def forward(self, output: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        return (self.rows(output, targets) / targets.bincount(minlength=3)[targets]).mean()


class Watching(Multiclass):
    """It remembers its largest output."""

    most: Tensor

    def __init__(self) -> None:
        super().__init__(3)
        self.register_buffer("most", torch.zeros(()))

    def forward(self, output: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        self.most = torch.maximum(self.most, output.detach().max())
        return super().forward(output, targets, weights)


@pytest.mark.parametrize("objective", [Balanced(3), Watching()], ids=["balanced", "watching"])
def test_an_objective_that_looks_at_other_rows_or_keeps_something_is_noticed(objective: Objective) -> None:
    assert rows_independent(nn.Linear(4, 3), objective, rows(), 2) is False
    assert all(not buffer.any() for buffer in objective.buffers())


def test_rows_that_count_differently_make_no_difference() -> None:
    batch = rows()
    batch.weights = torch.rand(16, generator=torch.Generator().manual_seed(1))
    assert rows_independent(nn.Linear(4, 3), Multiclass(3), batch, 3) is True


def test_inputs_without_numbers_tell_nothing_and_stand_in_nobodys_way() -> None:
    batch = table()
    assert isinstance(batch.inputs, dict)
    batch.inputs["categorical"] = torch.zeros(16, 0, 2, dtype=torch.int64)
    model = TableMLP(TableShape(numeric=3, categorical=0, buckets=8, outputs=3), [8])
    assert rows_independent(model, Multiclass(3), batch, 2) is True


def test_too_few_rows_or_equal_ones_tell_nothing() -> None:
    model = nn.Linear(4, 3)
    assert rows_independent(model, Multiclass(3), rows(3), 2) is None
    equal = Batch(torch.ones(8, 4), torch.zeros(8, dtype=torch.int64))
    assert rows_independent(model, Multiclass(3), equal, 2) is None
    nothing = Batch(torch.full((8, 4), torch.nan), torch.zeros(8, dtype=torch.int64))
    assert rows_independent(model, Multiclass(3), nothing, 2) is None


def test_a_parameter_that_the_forward_overwrites_is_refused_by_name() -> None:
    def renormed(own: Any, x: Tensor) -> Any:
        return own.linear(F.embedding(x[:, 0].long().abs(), own.table, max_norm=0.1))

    table = nn.Parameter(torch.ones(9, 4))
    model = Own(renormed, table=table)
    told = r"^cluster\.shards: expected parameters that only steps change, got table, which the model overwrites .*"
    with pytest.raises(JobError, match=told + r"or set shards = 1$"):
        rows_independent(model, Multiclass(3), rows(), 2)
    assert bool((table == 1).all())


def table(**more: Tensor) -> Batch:
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "numeric": torch.randn(16, 3, generator=draw),
        "categorical": torch.randint(0, 8, (16, 2, 2), generator=draw),
    }
    return Batch(inputs | more, torch.randint(0, 3, (16,), generator=draw))


def test_the_models_that_come_with_us_divide() -> None:
    torch.manual_seed(0)
    shape = TableShape(numeric=3, categorical=2, buckets=8, outputs=3)
    for model in (
        TableMLP(shape, [8]),
        TableMLP(shape, []),
        lora(TableMLP(shape, [8])),
        nearest_mean(TableMLP(shape, [8])),
    ):
        assert rows_independent(model, Multiclass(3), table(), 2) is True
    heads, batch = task_heads(TableMLP(shape, [8]), tasks=2), table()
    batch.task = torch.arange(16) % 2
    assert rows_independent(heads, Multiclass(3), with_task(batch), 2) is True
    tokens = torch.randint(0, 7, (16, 5), generator=torch.Generator().manual_seed(0))
    assert rows_independent(TokenCNN(7, [8]), NextToken(7), Batch(tokens, tokens), 2) is True
    towers = TwoTower(shape, {"numeric": [0], "categorical": [0]}, [8], 4, 0.0)
    assert rows_independent(towers, Outputs(), table(), 2) is True


class Outputs(Objective):
    """The mean of all outputs, whatever the targets."""

    def forward(self, output: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        return output.mean()
