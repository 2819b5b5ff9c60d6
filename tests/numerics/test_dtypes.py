"""Every type of tensor that torch knows merges right, travels and is stored, or is refused when the learner is made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.errors import ArgumentError, StrategyError
from incr_core.learner import Learner
from incr_core.numerics import all_finite
from incr_core.objectives import Binary
from incr_core.registry._version import read_version, write_version
from incr_core.rounds._outer import Mean, Nesterov
from incr_core.storage import checkpoint, model_sha256
from incr_core.storage.packing import pack, unpack
from incr_core.strategies import Context, Strategy, Traits
from incr_core.update import Update, mean, merge
from tests.support.every_dtype import COMPLEX, EVERY, FLOATS, INTEGERS, MERGEABLE, REFUSED, of_two

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


def same_bits(found: Tensor, expected: Tensor) -> bool:
    """torch.equal knows neither complex numbers of 32 bits nor the shapes of others."""
    return model_sha256({"w": found}) == model_sha256({"w": expected})


class Holding(nn.Module):
    """A linear model with one more buffer, or one more weight that does not learn."""

    extra: Tensor

    def __init__(self, value: Tensor, *, weight: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        if weight:
            self.extra = nn.Parameter(value.clone(), requires_grad=False)
        else:
            self.register_buffer("extra", value.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.linear(inputs)
        return output


def learner_with(value: Tensor, *, weight: bool = False) -> Learner:
    torch.manual_seed(0)
    return Learner(Holding(value, weight=weight), Binary(), torch.optim.SGD)


def test_each_is_in_one_of_the_two_lists() -> None:
    assert {*MERGEABLE, *REFUSED} == {*EVERY}
    assert {str(kind) for kind in REFUSED} >= {"torch.float8_e8m0fnu", "torch.int4", "torch.bits8", "torch.qint8"}


@pytest.mark.parametrize("weight", [False, True], ids=["buffer", "weight"])
@pytest.mark.parametrize("dtype", MERGEABLE, ids=str)
def test_two_learners_merge_by_the_rule_of_the_type(dtype: torch.dtype, weight: bool) -> None:
    one, other, merged = of_two(dtype)
    learners = [learner_with(value, weight=weight) for value in (one, other)]
    rule = learners[0].rules()["model.extra"]
    averaged = "mean" if weight else "average"
    assert rule == (averaged if dtype in (*FLOATS, *COMPLEX) else "max")
    rows = Batch(torch.randn(4, 2), torch.tensor([0.0, 1.0, 1.0, 0.0]))
    updates = [learners[0].learn(rows.slice(0, 1)), learners[1].learn(rows.slice(1, 4))]
    found = mean(updates, {}, learners[0].rules())
    assert found["model.extra"].dtype == dtype
    assert same_bits(found["model.extra"], merged)
    learners[0].adopt(found)
    assert same_bits(learners[0].weights()["model.extra"], merged)
    assert all(map(all_finite, learners[0].weights().values()))


@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX, *INTEGERS], ids=str)
def test_a_sum_counts_what_each_has_added(dtype: torch.dtype) -> None:
    start, one, other, total = (torch.tensor([value]).to(dtype) for value in (3, 5, 4, 6))
    assert same_bits(merge([one, other], [0.5, 0.5], "sum", start), total)


@pytest.mark.parametrize("dtype", MERGEABLE, ids=str)
def test_outer_steps_move_what_is_averaged_and_leave_the_rest(dtype: torch.dtype) -> None:
    anchor, value, _ = of_two(dtype)
    rules = {"w": "mean" if dtype in (*FLOATS, *COMPLEX) else "max"}
    assert same_bits(Mean().step({"w": anchor}, {"w": value}, rules)["w"], value)
    outer = Nesterov(lr=1.0, momentum=0.5)
    found = outer.step({"w": anchor}, {"w": value}, rules)["w"]
    assert found.dtype == dtype
    # d = a - w, v = d, next = a - (d + v / 2): half as far again as the mean.
    wide = anchor.to(torch.complex128 if dtype.is_complex else torch.float64)
    expected = wide - 1.5 * (wide - value.to(wide.dtype))
    assert same_bits(found, expected.to(dtype) if rules["w"] == "mean" else value)
    tensors, rest = pack(outer.state_dict())
    again = Nesterov(lr=1.0, momentum=0.5)
    again.load_state_dict(unpack(tensors, json.loads(json.dumps(rest))))
    for outer_step in (outer, again):
        outer_step.step({"w": found}, {"w": value}, rules)
    assert model_sha256(again.velocity) == model_sha256(outer.velocity)


@pytest.mark.parametrize("dtype", MERGEABLE, ids=str)
def test_checkpoints_and_versions_keep_every_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    value, other, _ = of_two(dtype)
    weights = {"one": value, "turned": torch.stack([value, other]).t(), "lonely": value[0], "none": value[:0]}
    checkpoint.save(tmp_path / "state", weights)
    found, _ = checkpoint.load(tmp_path / "state")
    assert model_sha256(found) == model_sha256(weights)
    write_version(tmp_path / "version", weights, {}, {"version": 1}, {})
    found, _ = read_version(tmp_path / "version")
    assert model_sha256(found) == model_sha256(weights)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_is_not_finite_is_noticed_in_every_type(dtype: torch.dtype) -> None:
    value = torch.tensor([1.0, float("nan")]).to(dtype)
    assert not all_finite(value)


QUANTISED = [torch.quint8, torch.qint8, torch.qint32]
INSIDE_TORCH = [torch.quint4x2, torch.quint2x4]
"""Of these torch makes tensors inside of its own layers only."""


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("dtype", [kind for kind in REFUSED if kind not in INSIDE_TORCH], ids=str)
def test_any_other_type_is_refused_by_name(dtype: torch.dtype) -> None:
    quantised = dtype in QUANTISED
    value = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, dtype) if quantised else torch.empty(3, dtype=dtype)
    model = nn.Linear(2, 1)
    model.register_buffer("extra", value)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        ArgumentError, match=f"^model.extra: expected a type that can be added or compared, got {name}; "
    ):
        Learner(model, Binary(), torch.optim.SGD)


@pytest.mark.parametrize(
    ("value", "rule", "message"),
    [
        (torch.zeros(2, dtype=torch.complex64), "max", "expected a type that merges by 'max', got complex64; declare"),
        (
            torch.zeros(2, dtype=torch.int64),
            "mean",
            "expected a type that merges by 'mean', got int64; declare another",
        ),
        (
            torch.zeros(2, dtype=torch.bool),
            "sum",
            "expected a type that merges by 'sum', got bool; declare another rule",
        ),
        (torch.zeros(2), "median", "expected the rule mean, average, sum or max, got 'median'; declare one of these"),
        (torch.zeros(2, 2).to_sparse(), "mean", "expected a dense tensor, got one of torch.sparse_coo; keep it with"),
        (torch.zeros(2, device="meta"), "mean", "expected a tensor with values, got one on the meta device; load the"),
        (
            torch.zeros(1).expand(3),
            "mean",
            "expected a tensor with room for all its values, got an expanded one; .clone",
        ),
    ],
)
def test_what_cannot_merge_is_refused_by_name(value: Tensor, rule: str, message: str) -> None:
    class Declares(nn.Linear):
        merge = {"extra": rule}  # noqa: RUF012

    model = nn.Sequential(Declares(2, 1))
    model[0].register_buffer("extra", value)
    with pytest.raises(ArgumentError, match="^" + re.escape(f"model.0.extra: {message}")):
        Learner(model, Binary(), torch.optim.SGD)


def test_what_a_strategy_shares_and_nobody_can_merge_is_refused_by_name() -> None:
    class Marks(Strategy):
        traits = Traits(shared={"marks": "mean"})

        def attach(self, ctx: Context) -> None:
            self.register_buffer("marks", torch.zeros(2, dtype=torch.int64))

    with pytest.raises(
        StrategyError, match=r"^strategy Marks: marks: expected a type that merges by 'mean', got int64"
    ):
        Learner(nn.Linear(2, 1), Binary(), torch.optim.SGD, [Marks()])


def test_an_update_alone_is_its_own_mean() -> None:
    value = of_two(torch.complex128)[0]
    assert mean([Update({"w": value}, 3)], {}, {"w": "mean"})["w"] is value
