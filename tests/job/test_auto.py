"""`model.kind = "auto"` and `learner.epochs = "auto"` in a job file: what they make, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from incr_core.batch import Batch
from incr_core.engines import LocalEngine
from incr_core.errors import JobError, StrategyError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.models import TableExperts
from incr_core.objectives import Blend, Multiclass
from incr_core.strategies import LwF
from tests.support.federated_runs import people

AUTO = ("model.kind=auto", "learner.epochs=auto")


def test_the_model_is_made_of_experts_and_the_objective_of_theirs(table: Path) -> None:
    learner = people(table, *AUTO, "learner.objective=multiclass").learner_for(2)
    assert isinstance(learner.model, TableExperts)
    assert isinstance(learner.objective, Blend)
    assert isinstance(learner.objective.each, Multiclass)


def test_passes_become_fewer_as_rows_are_known(table: Path, tmp_path: Path) -> None:
    engine = LocalEngine(people(table, *AUTO, "stream.every=600", "learner.batch_size=256"), tmp_path)
    engine.start(None)
    passes = []
    while arrivals := engine.receive():
        passes.append(engine.learn(arrivals).passes_rows / arrivals[0].labelled)
    assert passes == [2, 8, 6, 6], "the warm start has passes of its own"
    assert engine.participant.learner.rows_known == 2000
    assert engine.participant._passes_of(engine.participant.increment.tick) == 6  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learner.objective=multilabel", "expected learner.objective = 'binary', 'multiclass' or 'regression', got"),
        ("model.factory=own:model", "expected no model.factory"),
        ('model.adapt=[{name="lora"}]', "expected no model.adapt"),
        ('features.text=["colour"]', "expected no features.text"),
        ("learner.head=ridge", "expected no learner.head"),
        ("federated.privacy={epsilon=9.0}", "expected neither federated.privacy nor federated.client_privacy"),
        ("features.ranges={height=[0, 3], weight=[0, 200]}", "expected no features.ranges"),
    ],
)
def test_what_cannot_be_made_of_experts_is_refused(table: Path, setting: str, message: str) -> None:
    with pytest.raises(JobError, match=f'model.kind = "auto": {message}'):
        people(table, "model.kind=auto", "learner.warm_epochs=1", setting).objective()


def test_passes_of_their_own_need_experts(table: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r'learner\.epochs = "auto": expected model\.kind = "auto"'):
        people(table, "learner.epochs=auto").participant()


@pytest.mark.parametrize(
    ("key", "value"), [("model.kind", "forest"), ("learner.epochs", "many"), ("learner.epochs", 0)]
)
def test_other_words_are_refused_by_their_key(table: Path, key: str, value: Any) -> None:
    with pytest.raises(JobError, match=key):
        people(table, f"{key}={value}")
    assert Job.from_document(people(table).document()).model.kind == "mlp"


@pytest.mark.parametrize("strategy", ["icarl", "slda", "ace"])
def test_strategies_of_one_network_say_what_to_do_beside_experts(table: Path, strategy: str) -> None:
    job = people(table, *AUTO, "learner.objective=multiclass", f'strategy=[{{name="{strategy}"}}]')
    said = rf'{strategy}: expected the objective Multiclass, got Blend; .* set model\.kind = "mlp"$'
    with pytest.raises(StrategyError, match=said):
        job.learner_for(2)


def test_lwf_leaves_out_classes_that_no_expert_has_learned() -> None:
    """The teacher's answers count over the classes that were learned, for each expert that learns by steps."""
    torch.manual_seed(0)
    objective = Blend(Multiclass(3), learned=2, solved=1)
    model, lwf = torch.nn.Linear(2, 9), LwF(strength=1.0, temperature=1.0)
    learner = Learner(model, objective, torch.optim.SGD, [lwf], batch_size=8)
    learner.learn(Batch(torch.randn(8, 2), torch.tensor([0, 1] * 4)))
    assert lwf.learned.reshape(3, 3).tolist() == [[1, 1, 0]] * 3
    x = torch.randn(4, 2)
    lwf.begin(learner.context)
    lwf.augment(learner.context, Batch(x, torch.tensor([2] * 4)))
    with torch.no_grad():
        teacher = model(x).clone()
        for expert in range(2):
            model.bias[3 * expert + 2] += 5.0  # the class that nobody has taught
    student = model(x)
    [found] = lwf.loss(learner.context, Batch(x, torch.tensor([2] * 4)), student).values()
    wanted = torch.zeros(())
    for expert in range(2):
        t, s = teacher[:, 3 * expert : 3 * expert + 2], student[:, 3 * expert : 3 * expert + 3]
        target, soft = t.softmax(1), s.log_softmax(1)[:, :2]
        wanted = wanted + (target * (target.log() - soft)).sum(1).mean()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_table_without_numbers_makes_experts_without_a_warning(table: Path) -> None:
    """Any warning fails a test; torch warns of layers without inputs."""
    people(table, "features.numeric=[]", "model.kind=auto", "learner.warm_epochs=1").resolved().participant()
