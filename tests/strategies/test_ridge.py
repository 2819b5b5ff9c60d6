"""The head that cannot forget: ridge regression on all rows ever learned, from sums that merge and are taken back."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from sklearn import linear_model
from sklearn.datasets import load_digits
from torch import Tensor, nn

from incr_core.batch import Batch, cat
from incr_core.errors import ArgumentError, JobError, StrategyError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.models import STEPS, TableMLP, TableShape
from incr_core.models.adapt import RidgeHead, ridge
from incr_core.objectives import (
    LOSSES,
    Binary,
    GrowingMulticlass,
    Multiclass,
    Multilabel,
    Objective,
    Ranking,
    Regression,
)
from incr_core.strategies import EWC, Replay, Ridge, derived
from incr_core.testing import check_strategy
from incr_core.update import merge_shared


def network(outputs: int = 3, features: int = 40, inputs: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return ridge(nn.Sequential(nn.Identity(), nn.Linear(inputs, outputs)), features)


def learner(objective: Objective, model: nn.Module | None = None, **arguments: Any) -> Learner:
    return Learner(model or network(objective.outputs), objective, "sgd", [Ridge(**arguments)], batch_size=16)


def rows(count: int = 90, seed: int = 0) -> Batch:
    """Three classes around three points; ids."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 3, (count,), generator=generator)
    centres = 2.0 * torch.eye(3, 4)
    return Batch(centres[targets] + torch.randn(count, 4, generator=generator), targets, row_ids=torch.arange(count))


def head(of: Learner) -> tuple[Tensor, Tensor]:
    weights = of.weights()
    return weights["model.1.ridge_weight"].double(), weights["model.1.ridge_bias"].double()


def levels(of: Learner, inputs: Tensor) -> Tensor:
    part = of.model[1]  # type: ignore[index]
    assert isinstance(part, RidgeHead)
    found: Tensor = part.features(inputs)
    return found.double()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, pytest.param({"decay": 0.01}, marks=pytest.mark.chaos)])
def test_obeys_the_laws(arguments: dict[str, float]) -> None:
    check_strategy(partial(Ridge, **arguments), model=network)


def test_scores_are_those_of_ridge_regression_on_all_rows_whatever_came_when() -> None:
    stream = rows()
    by_class = learner(Multiclass(3), penalty=2.0)
    for label in (2, 0, 1):
        by_class.learn(stream.take((stream.targets == label).nonzero().reshape(-1)))
    at_once = learner(Multiclass(3), penalty=2.0)
    at_once.learn(stream)
    assert all(torch.equal(a, b) for a, b in zip(head(by_class), head(at_once), strict=True))
    theirs = linear_model.Ridge(2.0 * STEPS**2).fit(levels(at_once, stream.inputs), torch.eye(3)[stream.targets])  # type: ignore[arg-type]
    weight, expected = head(at_once)[0], torch.from_numpy(theirs.coef_).t()
    sharp = weight.norm() / expected.norm()
    assert torch.allclose(weight, sharp * expected, atol=1e-4 * float(weight.abs().max()))
    scores = torch.from_numpy(theirs.predict(levels(at_once, stream.inputs)))  # type: ignore[arg-type]
    assert torch.equal(at_once.predict(stream.inputs).argmax(1), scores.argmax(1))


def test_a_regression_far_from_zero_is_that_of_ridge_regression() -> None:
    stream = rows()
    values = 1e6 + 1e-2 * stream.inputs.sum(1).double()  # type: ignore[union-attr]
    one = learner(Regression(), network(1), penalty=1e-3)
    for part in (stream.slice(0, 20), stream.slice(20, 90)):
        labelled = Batch(part.inputs, values[part.row_ids])
        one.absorb(one.observe(labelled))
        one.learn(labelled)
    theirs = linear_model.Ridge(1e-3 * STEPS**2).fit(levels(one, stream.inputs), values)  # type: ignore[arg-type]
    found = one.predict(stream.inputs)
    expected = torch.from_numpy(theirs.predict(levels(one, stream.inputs)))  # type: ignore[arg-type]
    assert float((found - expected).abs().max()) < 1e-4 * float(values.std())


def test_probabilities_are_about_as_often_true_as_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4000, 4, generator=generator)
    chance = (1.5 * inputs[:, 0] - inputs[:, 1]).sigmoid()
    labels = (torch.rand(4000, generator=generator) < chance).float()
    for objective, targets in ((Binary(), labels), (Multilabel(2), torch.stack([labels, 1 - labels], 1))):
        one = learner(objective, network(objective.outputs, 200))
        one.learn(Batch(inputs[:3000], targets[:3000]))
        found = one.predict(inputs[3000:])
        found = found if found.dim() == 1 else found[:, 0]
        assert float((found - chance[3000:]).abs().mean()) < 0.08


def test_a_class_that_nobody_has_seen_is_never_predicted_and_one_that_comes_late_is_known() -> None:
    stream = rows()
    one = learner(GrowingMulticlass(5), network(5))
    for labels in ([0, 1], [2]):
        part = stream.take(torch.isin(stream.targets, torch.tensor(labels)).nonzero().reshape(-1))
        one.absorb(one.observe(part))
        one.learn(part)
    found = one.predict(stream.inputs)
    assert not found[:, 3:].any()
    assert float((found.argmax(1) == stream.targets).double().mean()) > 0.75


def test_class_incremental_digits_in_one_pass_with_no_row_kept() -> None:
    inputs, targets = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    every = Batch((inputs.float() - 8.0) / 6.0, targets)
    one = learner(Multiclass(10), network(10, 500, 64))
    for first in range(0, 10, 2):
        mine = torch.isin(targets[:1400], torch.tensor([first, first + 1])).nonzero().reshape(-1)
        one.learn(every.take(mine))
    found = one.predict(every.inputs).argmax(1)[1400:]
    assert float((found == targets[1400:]).double().mean()) > 0.9


def test_rows_that_are_taken_out_leave_the_head_of_the_others() -> None:
    stream, other = rows(), learner(Multiclass(3))
    one = learner(Multiclass(3))
    one.learn(stream)
    strategy = one.strategies[0]
    assert isinstance(strategy, Ridge)
    strategy.take_out(one.model, one.objective, stream.slice(10, 60))
    one.derive()
    other.learn(cat([stream.slice(0, 10), stream.slice(60, 90)]))
    assert all(torch.equal(a, b) for a, b in zip(head(one), head(other), strict=True))


def test_sums_that_fade_count_rows_by_how_long_ago_they_came() -> None:
    stream, decay = rows(), 0.02
    one = learner(Regression(), network(1), penalty=0.5, decay=decay)
    values = stream.inputs[:, 0].double()  # type: ignore[index]
    for start in (0, 30, 60):
        one.learn(Batch(stream.inputs[start : start + 30], values[start : start + 30]))  # type: ignore[index]
    weights = (1 - decay) ** torch.tensor([60.0] * 30 + [30.0] * 30 + [0.0] * 30).double()
    theirs = linear_model.Ridge(0.5 * STEPS**2).fit(levels(one, stream.inputs), values, weights)  # type: ignore[arg-type]
    expected = torch.from_numpy(theirs.predict(levels(one, stream.inputs)))  # type: ignore[arg-type]
    assert float((one.predict(stream.inputs) - expected).abs().max()) < 1e-5
    with pytest.raises(StrategyError, match=r"ridge: expected sums of whole rows .*decay 0.02"):
        one.strategies[0].take_out(one.model, one.objective, stream)  # type: ignore[operator]


def test_a_server_without_a_model_comes_to_the_head_of_all_rows() -> None:
    stream, whole = rows(), learner(Multiclass(3))
    whole.learn(stream)
    clients = [learner(Multiclass(3)) for _ in range(2)]
    before = {name: value.clone() for name, value in clients[0].shared_state()[0].items()}
    for client, part in zip(clients, (stream.slice(0, 70), stream.slice(70, 90)), strict=True):
        client.begin(part)
        client.advance()
        client.end(part, derives=False)
    states, rules = [client.shared_state()[0] for client in clients], clients[0].shared_state()[1]
    shared = merge_shared(states, [70, 20], rules, before)
    weights, changed = derived([Ridge()], learner(Multiclass(3)).weights(), shared)
    assert torch.equal(weights["model.1.ridge_weight"], whole.weights()["model.1.ridge_weight"])
    assert float(changed["0.known"]) == 90


def test_passes_and_the_size_of_batches_are_no_matter() -> None:
    stream, one = rows(), learner(Multiclass(3))
    several = Learner(network(), Multiclass(3), "adam", [Ridge()], batch_size=7, accumulate=2, epochs=3)
    update = several.learn(stream)
    one.learn(stream)
    assert update.num_rows == 3 * 90
    assert torch.equal(head(several)[0], head(one)[0])


def test_the_model_for_tables_keeps_the_scale_that_it_found_first() -> None:
    model = ridge(TableMLP(TableShape(2, 1, 16, 1), hidden=[]), 20)
    one = Learner(model, Regression(), "sgd", [Ridge()])
    for day in range(2):
        numbers = torch.randn(30, 2) + day
        part = Batch({"numeric": numbers, "categorical": torch.zeros(30, 1, 2, dtype=torch.int64)}, numbers[:, 0])
        one.absorb(one.observe(part))
        one.learn(part)
    assert float(one.weights()["model.moments.sums"][0, 0]) == 30
    assert float(one.weights()["objective.target.sums"][0, 0]) == 60


@pytest.mark.parametrize(
    ("model", "objective", "strategies", "told"),
    [
        (nn.Sequential(nn.Linear(4, 3)), Multiclass(3), [Ridge()], "RidgeHead and no trainable weights, got 0"),
        (nn.Sequential(nn.Linear(4, 4), network()), Multiclass(3), [Ridge()], "got 0.weight, which is trainable"),
        (network(), Ranking(3), [Ridge()], "Multilabel with its own loss, got Ranking"),
        (network(), Multiclass(3, LOSSES["gce"]()), [Ridge()], "got another loss than the objective's own"),
        (network(), Multiclass(3), [Ridge(), Replay()], "expected Ridge alone, got it beside Replay"),
    ],
)
def test_what_it_cannot_be_right_with_is_refused(
    model: nn.Module, objective: Objective, strategies: list[Any], told: str
) -> None:
    with pytest.raises(StrategyError, match=told):
        Learner(model, objective, "sgd", strategies)


def test_bad_settings_and_models_that_nobody_fits_are_refused() -> None:
    with pytest.raises(StrategyError, match=r"ridge\.penalty: expected a number above 0, got 0"):
        Ridge(penalty=0)
    with pytest.raises(StrategyError, match=r"ridge\.decay: expected a number from 0 to 1, got 2"):
        Ridge(decay=2)
    with pytest.raises(ArgumentError, match="no parameter with requires_grad"):
        Learner(network(), Multiclass(3), "sgd", [EWC()])
    with pytest.raises(ArgumentError, match=r"cluster\.shards: expected 1 .* got 2; use replicas"):
        Learner(network(), Multiclass(3), "sgd", [Ridge()], shard=(0, 2))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"learner": {"head": "rigde"}}, 'learner.head.name: expected "ridge", got "rigde"'),
        ({"learner": {"head": {"name": "ridge", "featurs": 5}}}, 'learner.head.featurs: .* did you mean "features"'),
        (
            {"learner": {"head": "ridge", "consolidate": 100}},
            'learner.consolidate: expected "increment" .* got 100',
        ),
        (
            {"learner": {"head": "ridge", "epochs": 3}},
            "learner.epochs: expected none with learner.head, .* got 3; leave",
        ),
        ({"learner": {"head": "ridge", "epochs": "auto"}}, "learner.epochs: expected none .* got 'auto'; leave it out"),
        ({"learner": {"head": "ridge", "warm_epochs": 2}}, "learner.warm_epochs: expected none .* got 2; leave it out"),
        (
            {"learner": {"head": "ridge", "epochs": 3, "validation": 0.2}},
            "learner.validation: expected none .* got 0.2; leave it out",
        ),
        ({"learner": {"head": "ridge"}, "cluster": {"shards": 2}}, "cluster.shards: expected 1 .* got 2; use replicas"),
    ],
)
def test_a_job_with_another_head_or_one_that_cannot_be_is_refused(settings: dict[str, Any], told: str) -> None:
    learner = {"objective": "binary", **settings["learner"]}
    document = {"stream": {"path": "rows"}, "features": {"label": "y"}, **settings, "learner": learner}
    with pytest.raises(JobError, match=told):
        Job.from_document(document)
