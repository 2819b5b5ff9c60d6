"""Strategies against their formulas, written out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from incr_core.batch import Batch
from incr_core.errors import ArgumentError, StrategyError
from incr_core.learner import Learner
from incr_core.memories import Herding, Prototypes, RecentRows
from incr_core.models import Activations, TableMLP, TableShape
from incr_core.models.adapt import NearestMean
from incr_core.objectives import Binary, Multiclass
from incr_core.strategies import (
    ACE,
    AGEM,
    DER,
    L2SP,
    MAS,
    MIR,
    SI,
    ElasticNet,
    FeatureDistillation,
    FedProx,
    GDumb,
    ICaRL,
    LwF,
    Replay,
    Strategy,
)

LR = 0.1


def rows(count: int, classes: Sequence[int], seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(len(classes), (count,), generator=generator)
    return Batch(torch.randn(count, 4, generator=generator), torch.tensor(classes)[which])


def learner(*strategies: Strategy, batch_size: int = 8, model: nn.Module | None = None) -> Learner:
    torch.manual_seed(0)
    made = nn.Linear(4, 4) if model is None else model
    return Learner(
        made, Multiclass(4), partial(torch.optim.SGD, lr=LR), strategies, batch_size=batch_size, shuffle=False
    )


def weight(one: Learner) -> torch.Tensor:
    return next(one.model.parameters()).detach()


def test_si_importance_is_the_path_integral() -> None:
    si = SI(strength=1.0, damping=0.5)
    one = learner(si, batch_size=4)
    w = weight(one)
    start = w.clone()
    path = torch.zeros_like(w)
    batch = rows(8, [0, 1])
    for part in batch.split(4):
        before = w.clone()
        live = nn.Linear(4, 4)
        live.load_state_dict(one.model.state_dict())
        torch.autograd.backward(F.cross_entropy(live(part.inputs), part.targets))
        one.begin(part)
        one.advance()
        assert live.weight.grad is not None
        path -= live.weight.grad * (w - before)
    one.end(batch)
    expected = path.clamp(min=0) / ((w - start).square() + 0.5)
    torch.testing.assert_close(si.importance.tensors()[0], expected)
    assert expected.sum() > 0, "the anchor must be a copy of the weights, or every importance is 0"


def test_si_pulls_back_to_the_anchor() -> None:
    si = SI(strength=2.0)
    one = learner(si)
    one.learn(rows(8, [0, 1]))
    w, anchor, importance = weight(one), si.anchor.tensors()[0], si.importance.tensors()[0]
    w += 0.3
    gradient = torch.autograd.grad(
        F.cross_entropy(one.model(batch := rows(8, [2, 3]).inputs), rows(8, [2, 3]).targets),
        list(one.model.parameters()),
    )[0]
    assert len(batch) == 8
    stiffness = 2 * 2.0 * importance
    expected = w - LR * (gradient + stiffness / (1 + LR * stiffness) * (w - anchor))
    one.learn(rows(8, [2, 3]))
    torch.testing.assert_close(w, expected)


def test_mas_importance_of_a_linear_model() -> None:
    mas = MAS(strength=1.0)
    one = learner(mas)
    batch = rows(16, [0, 1])
    one.learn(batch)
    assert isinstance(batch.inputs, torch.Tensor)
    output = one.model(batch.inputs).detach()
    expected = (2 * output[:, :, None] * batch.inputs[:, None, :]).abs().mean(0)
    torch.testing.assert_close(mas.importance.tensors()[0], expected)


def test_agem_leaves_an_acute_gradient_and_turns_an_obtuse_one() -> None:
    agem = AGEM(capacity=8, rows=64)
    one = learner(agem)
    old = Batch(torch.ones(8, 4), torch.zeros(8, dtype=torch.int64))
    one.learn(old)
    reference = torch.autograd.grad(one.objective(one.model(old.inputs), old.targets), list(one.model.parameters()))
    start = [p.detach().clone() for p in one.model.parameters()]
    one.learn(Batch(torch.ones(8, 4), torch.ones(8, dtype=torch.int64)))  # the same input, another class
    step = [(s - p.detach()) / LR for s, p in zip(start, one.model.parameters(), strict=True)]
    inner = sum(float((g * r).sum()) for g, r in zip(step, reference, strict=True))
    assert abs(inner) < 1e-5
    start = [p.detach().clone() for p in one.model.parameters()]
    plain = torch.autograd.grad(one.objective(one.model(old.inputs), old.targets), list(one.model.parameters()))
    one.learn(old)
    agem.rows = 0
    for s, p, g in zip(start, one.model.parameters(), plain, strict=True):
        torch.testing.assert_close(p.detach(), s - LR * g)


def test_der_is_the_sum_of_its_three_terms() -> None:
    der = DER(capacity=4, logits=0.7, labels=0.3)
    one = learner(der, batch_size=4)
    old = rows(4, [0])
    before = one.model(old.inputs).detach()
    one.learn(old)
    torch.testing.assert_close(der.memory.rows_held()["logits"], before)
    new = rows(4, [1], seed=1)
    one.begin(new)
    one.context.new = new
    mixed = der.augment(one.context, new)
    output = one.model(mixed.inputs)
    terms = der.loss(one.context, mixed, output)
    assert len(mixed) == 12
    torch.testing.assert_close(
        one.objective(output, mixed.targets, mixed.weights), F.cross_entropy(output[:4], new.targets)
    )
    torch.testing.assert_close(terms["replay"], 0.3 * F.cross_entropy(output[8:], mixed.targets[8:]))
    assert terms["der"].item() > 0


def test_ace_compares_new_rows_with_their_own_classes_only() -> None:
    one = learner(ACE(), batch_size=4)
    one.learn(rows(4, [0, 1]))
    w = weight(one)
    start = w.clone()
    one.learn(rows(4, [2]))
    assert torch.equal(w[:2], start[:2])  # classes seen before and not in the batch: no gradient
    assert not torch.equal(w[2:], start[2:])


def test_mir_replays_what_the_step_would_harm() -> None:
    mir = MIR(capacity=2, ratio=1.0, candidates=64)
    one = learner(mir, batch_size=1)
    harmed, safe = torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0, 0, 0, 1.0]])
    mir.memory.insert({"inputs": torch.cat([harmed, safe]), "targets": torch.tensor([0, 0])}, torch.Generator())
    new = Batch(harmed, torch.tensor([1]))
    one.begin(new)
    start = weight(one).clone()
    one.context.new = new
    mixed = mir.augment(one.context, new)
    assert isinstance(mixed.inputs, torch.Tensor)
    assert torch.equal(mixed.inputs[1:], harmed)
    assert torch.equal(weight(one), start)
    assert one.model.training


def test_elastic_net_leaves_small_moves_at_the_anchor() -> None:
    one, free = learner(ElasticNet(l1=0.3)), learner()
    w, start = weight(one), weight(one).clone()
    batch = rows(8, [0, 1])
    one.learn(batch)
    free.learn(batch)
    moved = weight(free) - start
    torch.testing.assert_close(w - start, moved.sign() * (moved.abs() - LR * 0.3).clamp(min=0))
    assert (w == start).any()


@pytest.mark.parametrize("strategy", [L2SP(0.5), FedProx(0.5), ElasticNet(l1=0.0, l2=0.5)])
def test_quadratic_pull(strategy: Strategy) -> None:
    one, free = learner(strategy, batch_size=4), learner(batch_size=4)
    w, start = weight(one), weight(one).clone()
    first, second = rows(8, [0, 1]).split(4)
    whole = rows(8, [0, 1])
    one.begin(whole)
    one.advance(1)
    free.learn(first)
    torch.testing.assert_close(w, weight(free))  # at the anchor there is no pull
    here = w.clone()
    free.learn(second)
    one.advance(1)
    torch.testing.assert_close(w, weight(free) - LR * 0.5 * (here - start))


def test_gdumb_starts_from_the_first_weights_and_knows_only_its_memory() -> None:
    one, other = learner(GDumb(16, passes=3)), learner(GDumb(16, passes=3))
    one.learn(rows(16, [0, 1]))
    other.begin(rows(16, [0, 1]))
    start = weight(other).clone()
    other.advance()
    assert torch.equal(weight(other), start)
    assert not torch.equal(weight(one), start)


def test_gdumb_begins_again_and_keeps_what_was_counted_of_the_rows() -> None:
    """Without the moments of its inputs, a model that retrains on features of size 1,000 never learns."""
    model = TableMLP(TableShape(numeric=4, categorical=0, buckets=1, outputs=4), [8])
    one = learner(GDumb(16, passes=3), model=model)
    labelled = rows(16, [0, 1])
    labelled = replace(labelled, inputs=labelled.inputs * 1000.0)  # type: ignore[operator, arg-type]
    one.absorb(one.observe(labelled))
    before = one.weights()["model.moments.sums"].clone()
    one.learn(labelled)
    assert before[0].tolist() == [16.0] * 4
    assert torch.equal(one.weights()["model.moments.sums"], before)


@pytest.mark.parametrize("strategy", [LwF(1.0), FeatureDistillation(1.0)])
def test_distillation_starts_at_zero(strategy: Strategy) -> None:
    one = learner(strategy, model=nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4)))
    one.learn(rows(32, [0, 1, 2, 3]))
    losses = one.learn(rows(8, [2, 3])).losses
    name = next(name for name in losses if name != "loss")
    assert losses[name] == pytest.approx(0.0, abs=1e-5)  # its only step starts at the teacher
    losses = one.learn(rows(64, [2, 3])).losses
    assert losses[name] > 1e-6


def test_icarl_predicts_the_nearest_mean() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), NearestMean(6, 4))
    one = learner(ICaRL(capacity=8), model=model)
    one.learn(rows(32, [0, 1]))
    one.learn(rows(32, [2, 3], seed=1))
    strategy = one.strategies[0]
    assert isinstance(strategy, ICaRL)
    held = strategy.memory.rows_held()
    assert held["targets"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    activations, test = Activations(model, "test"), rows(20, [0, 1, 2, 3], seed=2)
    model.eval()
    with activations.read(), torch.no_grad():
        model(held["inputs"])
        means = torch.stack([F.normalize(activations.last, dim=1)[held["targets"] == c].mean(0) for c in range(4)])
        model(test.inputs)
        near = (F.normalize(activations.last, dim=1)[:, None] - F.normalize(means, dim=1)).norm(dim=2).argmin(1)
    assert torch.equal(one.predict(test.inputs).argmax(1), near)


def test_window_keeps_the_last_rows_through_deletion() -> None:
    memory, generator = RecentRows(4), torch.Generator()
    for day in range(6):
        memory.insert({"targets": torch.tensor([day]), "rows": torch.tensor([day])}, generator)
    assert memory.drop(torch.tensor([3])) == 1
    assert memory.rows_held()["targets"].tolist() == [2, 4, 5]
    for day in range(6, 8):
        memory.insert({"targets": torch.tensor([day]), "rows": torch.tensor([day])}, generator)
    assert sorted(memory.rows_held()["targets"].tolist()) == [4, 5, 6, 7]


def test_herding_keeps_the_first_chosen_when_its_share_shrinks() -> None:
    features = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    small, large = Herding(3), Herding(8)
    columns = {"targets": torch.zeros(20, dtype=torch.int64), "place": torch.arange(20)}
    small.choose(columns, features)
    large.choose(columns, features)
    assert small.rows_held()["place"].tolist() == large.rows_held()["place"][:3].tolist()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SI(strength=-1.0), "si.strength: expected 0 or more, got -1.0"),
        (lambda: SI(damping=0.0), "si.damping: expected a number above 0, got 0.0"),
        (lambda: LwF(temperature=0.0), "lwf.temperature"),
        (lambda: learner(ICaRL(8)), "NearestMean"),
        (
            lambda: Learner(nn.Linear(2, 1), Binary(), torch.optim.SGD, [ACE()]),
            "ace: expected the objective Multiclass",
        ),
    ],
)
def test_complains_with_place_expectation_and_remedy(make: partial[object], says: str) -> None:
    with pytest.raises(StrategyError, match=says):
        make()


def test_what_a_memory_refuses_is_told_by_the_memory() -> None:
    with pytest.raises(ArgumentError, match=r"der.memory: expected a memory, got 'heap'; known: balanced, .*, window"):
        DER(memory="heap")
    with pytest.raises(ValueError, match=r"^memory.capacity: expected at least 1 row, got 0"):
        DER(capacity=0)


def test_er_ace_is_the_composition() -> None:
    one = learner(ACE(), Replay(capacity=8), batch_size=4)
    one.learn(rows(8, [0, 1]))
    losses = one.learn(rows(4, [2], seed=1)).losses
    assert set(losses) == {"loss", "ace"}


def test_prototypes_refuse_an_erasure_that_they_cannot_do() -> None:
    with pytest.raises(ArgumentError, match="none can be erased; use a memory of rows"):
        Prototypes(4).drop(torch.tensor([3]))
