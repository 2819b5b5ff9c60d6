"""Modules that keep more than tensors (`get_extra_state`): saved, taken back, and part of a version."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from incr_core.batch import Batch
from incr_core.errors import ArgumentError, CheckpointError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.objectives import Binary
from incr_core.runs import Version, run
from incr_core.update import mean
from tests.support.scaled import MODULE

SGD = partial(torch.optim.SGD, lr=0.1)

_names: dict[str, Any] = {}
exec(MODULE, _names)
Scaled = _names["Scaled"]


def rows(seed: int) -> Batch:
    inputs = torch.randn(16, 2, generator=torch.Generator().manual_seed(seed)) * (1 + seed)
    return Batch(inputs, (inputs[:, 0] > 0).float())


def made(seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    return Learner(nn.Sequential(Scaled()), Binary(), SGD, batch_size=4)


def test_a_resumed_learner_comes_to_the_same_bits() -> None:
    whole = made()
    whole.learn(rows(0))
    again = made()
    again.adopt(whole.weights())
    again.load_state_dict(whole.state_dict())
    assert again.extra.state_dict() == {"model.0": {"largest": rows(0).inputs.abs().max(), "calls": 4}}  # type: ignore[union-attr]
    for learner in (whole, again):
        learner.learn(rows(1))
    assert all(torch.equal(value, again.weights()[name]) for name, value in whole.weights().items())
    assert torch.equal(whole.predict(rows(2).inputs), again.predict(rows(2).inputs))


def test_it_is_no_weight_and_each_learner_keeps_its_own() -> None:
    one, other = made(), made()
    updates = [one.learn(rows(0)), other.learn(rows(3))]
    merged = mean(updates, {}, one.rules())
    assert merged.keys() == {"model.0.layer.weight", "model.0.layer.bias"}
    before = [learner.extra.state_dict() for learner in (one, other)]
    for learner in (one, other):
        learner.adopt(merged)
    assert [learner.extra.state_dict() for learner in (one, other)] == before
    assert before[0] != before[1]


@pytest.mark.parametrize(("state", "told"), [(object(), "object"), ({"at": {1, 2}}, "set")])
def test_a_state_that_only_pickle_could_keep_is_refused_by_name(state: Any, told: str) -> None:
    message = rf"^model.0: expected an extra state of tensors, .*Scaled.get_extra_state gives another: .*{told}.*; give"
    with pytest.raises(ArgumentError, match=message):
        Learner(nn.Sequential(Scaled(state=state)), Binary(), SGD)


def test_a_state_of_another_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^model.0: expected one of the extra states .*, got none; use the same"):
        made().extra.load_state_dict({})
    with pytest.raises(CheckpointError, match=r"^model.1: expected none of the extra states .*, got one"):
        made().extra.load_state_dict({**made().extra.state_dict(), "model.1": 3})


def test_a_version_answers_as_its_learner_did(table: Path, tmp_path: Path) -> None:
    (table.parent / "scaled.py").write_text(MODULE)
    path = table.parent / "job.toml"
    path.write_text(
        '[stream]\npath = "people.parquet"\nevery = 500\n[features]\nlabel = "tall"\nnumeric = ["height", "weight"]\n'
        '[model]\nfactory = "scaled:Scaled"\n[learner]\nobjective = "binary"\n[publish]\nkeep = 2\n'
    )
    job = Job.read(path)
    learner = job.participant().learner  # the same, learned without a run
    stream = job.data()
    for increment in stream.increments(None):
        learner.learn(increment.labelled)
    run(job, tmp_path / "run")
    version = Version.load(tmp_path / "run")
    assert version.learner.extra.state_dict() == learner.extra.state_dict()
    inputs = torch.randn(5, 2)
    assert torch.equal(version.learner.predict(inputs), learner.predict(inputs))
    folders = (tmp_path / "run" / "versions").iterdir()
    assert sum((folder / "extra_state.safetensors").exists() for folder in folders) == 2  # publish.keep
