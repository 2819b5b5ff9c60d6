"""A tensor that stands in several places of a model is one: it is merged, stepped and stored once, by one rule."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.errors import ArgumentError
from incr_core.learner import Learner
from incr_core.models import TableShape
from incr_core.models._entries import Entries, merge_rules
from incr_core.objectives import Binary
from incr_core.registry._version import read_version, write_version
from incr_core.rounds._outer import Nesterov
from incr_core.storage.packing import pack, unpack
from incr_core.strategies import LwF
from incr_core.update import mean
from tests.support.shared_models import NAMES, Norm, Shared


def rows_of(count: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    numeric = torch.randn(count, 2, generator=generator)
    codes = torch.randint(8, (count, 1, 2), generator=generator)
    return Batch({"numeric": numeric, "categorical": codes}, (numeric[:, 0] > 0).float())


def make() -> Learner:
    torch.manual_seed(0)
    return Learner(Shared(TableShape(2, 1, 8, 1)), Binary(), partial(torch.optim.SGD, lr=0.1), batch_size=4)


def test_each_tensor_has_one_name_and_one_rule() -> None:
    learner = make()
    assert sorted(learner.weights()) == sorted(NAMES)
    rules = learner.rules()
    assert sorted(rules) == sorted(NAMES)
    assert rules["model.layers.0.0.weight"] == "mean"
    assert rules["model.layers.0.2.total"] == "sum"
    assert rules["model.layers.0.2.most"] == "max"
    assert rules["model.middle"] == "average"


def test_two_learners_and_momentum_give_what_hand_and_pencil_do() -> None:
    """A round of two learners and Nesterov: every place of a tensor holds the one result."""
    learners, outer = [make(), make()], Nesterov(lr=0.7, momentum=0.9)
    rules = learners[0].rules()
    anchor = {name: value.clone() for name, value in learners[0].weights().items()}
    updates = [learner.learn(rows_of(4, seed)) for seed, learner in enumerate(learners)]
    one, other = ({name: value.clone() for name, value in update.weights.items()} for update in updates)
    following = outer.step(anchor, mean(updates, anchor, rules), rules)
    assert sorted(outer.velocity) == sorted(name for name in NAMES if rules[name] == "mean")
    for learner in learners:
        learner.adopt(following)
        model = learner.model
        assert isinstance(model, Shared)
        assert model.norm is model.get_submodule("layers.2.2")
        assert model.tied.weight is model.get_parameter("layers.1.0.weight")
        # Four passes of the norm over four rows, in each: max of 4, and 0 + 16 + 16.
        assert (int(model.norm.most), float(model.norm.total)) == (4, 32.0)
        torch.testing.assert_close(model.middle, (one["model.middle"] + other["model.middle"]) / 2)
        start, first = anchor["model.layers.0.0.weight"], one["model.layers.0.0.weight"]
        way = start - (first + other["model.layers.0.0.weight"]) / 2
        torch.testing.assert_close(model.tied.weight.detach(), start - 0.7 * 1.9 * way)


def test_it_is_saved_once_and_comes_back_to_every_place(tmp_path: Path) -> None:
    whole, stopped, fresh = make(), make(), make()
    for seed in range(4):
        whole.learn(rows_of(9, seed))
    for seed in range(2):
        stopped.learn(rows_of(9, seed))
    write_version(tmp_path / "1", stopped.weights(), {}, {"version": 1}, {})
    weights, _ = read_version(tmp_path / "1")
    assert sorted(weights) == sorted(NAMES)
    tensors, rest = pack(stopped.state_dict())
    fresh.adopt(weights)
    fresh.load_state_dict(unpack(tensors, json.loads(json.dumps(rest))))
    for seed in range(2, 4):
        fresh.learn(rows_of(9, seed))
    for name, value in whole.model.state_dict().items():  # under every name that torch has for it
        assert torch.equal(fresh.model.state_dict()[name], value), name


def test_what_is_observed_reaches_every_place() -> None:
    """The server adds to the anchor's entry, which is the only one."""

    class Counting(Shared):
        def observe(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"layers.0.2.total": torch.tensor(float(len(inputs["numeric"])), dtype=torch.float64)}

    model = Counting(TableShape(2, 1, 8, 1))
    learner = Learner(model, Binary(), torch.optim.SGD)
    anchor = {name: value.clone() for name, value in learner.weights().items()}
    for name, value in learner.observe(rows_of(5)).items():
        anchor[name] += value
    learner.adopt(anchor)
    assert float(model.norm.total) == 5.0


def test_a_teacher_of_a_model_that_shares() -> None:
    torch.manual_seed(0)
    model = Shared(TableShape(2, 1, 8, 1))
    learner = Learner(model, Binary(), partial(torch.optim.SGD, lr=0.1), [LwF(1.0)], batch_size=4)
    for seed in range(2):
        assert learner.learn(rows_of(8, seed)).num_rows == 8
    assert all(value.isfinite().all() for value in learner.weights().values())


def test_a_tensor_of_model_and_objective_is_the_models() -> None:
    class Pulls(Binary):
        def __init__(self, model: nn.Linear) -> None:
            super().__init__()
            self.proxy = model.weight

    model = nn.Linear(2, 1)
    learner = Learner(model, Pulls(model), torch.optim.SGD)
    assert list(learner.weights()) == ["model.weight", "model.bias"]


def test_rules_that_contradict_one_another_are_refused() -> None:
    class Other(nn.Module):
        merge = {"total": "average"}  # noqa: RUF012

        def __init__(self, total: Tensor) -> None:
            super().__init__()
            self.register_buffer("total", total)

    norm = Norm(2)
    with pytest.raises(
        ArgumentError, match=r"0.total: .* got 'sum' as model.0.total, 'average' as model.1.total: it is one"
    ):
        Entries(model=nn.Sequential(norm, Other(norm.total)))
    assert merge_rules(nn.Sequential(norm, nn.ReLU(), norm)) == {
        "0.scale": "mean",
        "0.total": "sum",
        "0.most": "max",
        "0.middle": "average",
    }


def test_two_places_that_part_are_told() -> None:
    """A forward that assigns a new tensor in one of two modules ends the sharing, unseen by the other."""
    learner = make()
    model = learner.model
    assert isinstance(model, Shared)
    model.norm.middle = torch.ones(6)
    with pytest.raises(
        ArgumentError,
        match=r"^model.layers.0.2.middle: expected the tensor that it shares with model.middle, got another",
    ):
        learner.weights()
