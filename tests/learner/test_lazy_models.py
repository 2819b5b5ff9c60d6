"""Whatever is drawn before the first step comes from the job's seed: layers made late, and draws of any generator."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from incr_core.batch import Batch
from incr_core.errors import ArgumentError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.objectives import Binary
from incr_core.storage import model_sha256

MODELS = """
import random
import numpy as np
import torch
from torch import nn
from incr_core import Strategy

def lazy():
    return nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(1))

class Late(nn.Module):
    "Makes its first layer when it knows how wide its rows are, as some do by hand."
    def __init__(self):
        super().__init__()
        self.first = None
        self.last = nn.Linear(4, 1)
    def forward(self, inputs):
        if self.first is None:
            self.first = nn.Linear(inputs.shape[1], 4)
        return self.last(self.first(inputs).relu())

class Drawn(nn.Linear):
    "Draws its first weights from Python and numpy."
    def __init__(self):
        super().__init__(2, 1)
        with torch.no_grad():
            self.weight.copy_(torch.tensor([[random.random(), np.random.randn()]]))

class Projects(Strategy):
    "Draws when it is made, and when it is attached."
    def __init__(self):
        super().__init__()
        self.register_buffer("made", torch.rand(3))
    def attach(self, ctx):
        self.register_buffer("attached", torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))]))
"""


def job_of(folder: Path, factory: str, **more: Any) -> Job:
    (folder / "late_models.py").write_text(MODELS)
    pq.write_table(pa.table({"a": [0.0, 1.0], "b": [1.0, 2.0], "y": [0, 1]}), folder / "rows.parquet")
    document = {
        "name": "late",
        "root": str(folder),
        "stream": {"path": str(folder / "rows.parquet"), "every": 2},
        "features": {"label": "y", "numeric": ["a", "b"], "classes": [0, 1]},
        "model": {"factory": f"late_models:{factory}"},
        "learner": {"objective": "binary", "optimizer": {"name": "adam", "lr": 0.1}, "seed": 3},
        **more,
    }
    return Job.from_document(document)


def disturb() -> None:
    for seeded in (torch.manual_seed, random.seed, np.random.seed):
        seeded(np.random.randint(1 << 30))


@pytest.mark.parametrize("factory", ["lazy", "Late", "Drawn"])
def test_the_first_weights_are_those_of_the_seed(factory: str, tmp_path: Path) -> None:
    """Whatever state the process is in, and of another seed others."""
    job = job_of(tmp_path, factory)
    found = []
    for _ in range(2):
        disturb()
        found.append(model_sha256(job.learner_for(2).weights()))
    assert found[0] == found[1]
    other = job.with_settings(["learner.seed=4"])
    assert model_sha256(other.learner_for(2).weights()) != found[0]


@pytest.mark.parametrize("factory", ["lazy", "Late"])
def test_the_optimizer_holds_what_was_made(factory: str, tmp_path: Path) -> None:
    learner = job_of(tmp_path, factory).learner_for(2)
    held = {id(weight) for group in learner.optimizer.param_groups for weight in group["params"]}
    assert held == {id(weight) for weight in learner.model.parameters()}
    before = {name: value.clone() for name, value in learner.weights().items()}
    learner.learn(Batch(torch.randn(8, 2), torch.tensor([0.0, 1.0]).repeat(4)))
    moved = [name for name, value in learner.weights().items() if not torch.equal(value, before[name])]
    assert set(before) - set(moved) <= {"model.0.bias"}  # which a BatchNorm behind it takes off again


def test_layers_that_are_made_late_can_be_adapted(tmp_path: Path) -> None:
    model = {"factory": "late_models:lazy", "adapt": [{"name": "freeze", "train": "3.*"}]}
    learner = job_of(tmp_path, "lazy", model=model).learner_for(2)
    assert learner.context.names == ["3.weight", "3.bias"]


def test_strategies_draw_from_the_seed_too(tmp_path: Path) -> None:
    job = job_of(tmp_path, "Drawn", strategy=[{"name": "late_models:Projects"}])
    found = []
    for _ in range(2):
        disturb()
        found.append(dict(job.learner_for(2).strategies.state_dict()))
    assert model_sha256(found[0]) == model_sha256(found[1])
    other = job.with_settings(["learner.seed=4"]).learner_for(2).strategies.state_dict()
    for name, value in found[0].items():
        assert not any(torch.isin(value, other[name])), name


def test_making_a_learner_leaves_all_generators_alone(tmp_path: Path) -> None:
    job = job_of(tmp_path, "Late", strategy=[{"name": "late_models:Projects"}])
    np.random.randn()  # one of a pair; the other waits
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    job.learner_for(2)
    after = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize(
    ("layer", "name", "kind"),
    [
        (nn.LazyLinear(1), "model.0.weight", "LazyLinear"),
        (nn.LazyBatchNorm1d(affine=False), "model.0.running_mean", ""),
    ],
)
def test_without_rows_to_try_it_on_a_lazy_layer_is_refused_by_name(layer: nn.Module, name: str, kind: str) -> None:
    with pytest.raises(
        ArgumentError,
        match=rf"^{name}: expected a tensor with a shape, got one that {kind or 'LazyBatchNorm1d'} makes in its",
    ):
        Learner(nn.Sequential(layer, nn.Linear(1, 1)), Binary(), torch.optim.SGD)


def test_a_layer_that_a_forward_makes_is_told_after_the_first() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(2, 1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if not hasattr(self, "first"):
                self.first = nn.Linear(2, 2)
            output: torch.Tensor = self.last(self.first(inputs))
            return output

    learner = Learner(Late(), Binary(), torch.optim.SGD)
    with pytest.raises(ArgumentError, match=r"^model.first.weight: .* a forward made this one: no optimizer moves it"):
        learner.learn(Batch(torch.randn(4, 2), torch.ones(4)))
