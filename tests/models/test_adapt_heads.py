"""Heads per task, heads that grow, analytic heads, and experts."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.errors import ArgumentError, StrategyError
from incr_core.learner import Learner
from incr_core.models import TableMLP, TableShape
from incr_core.models.adapt import StreamingLDA, experts, freeze, lda, task_heads, with_task
from incr_core.objectives import GrowingMulticlass, Multiclass
from incr_core.strategies import EWC, SLDA, Isolate, Replay
from incr_core.strategies.mechanisms import fisher_diagonal
from incr_core.update import mean

HEAVY: dict[str, Any] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.05),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
}


def task(number: int, count: int = 100) -> Batch:
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(count, 5, generator=generator) + 6.0 * number
    targets = torch.randint(2, (count,), generator=generator)
    return with_task(Batch(inputs, targets, task=torch.full((count,), number)))


def body_and_head(outputs: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, outputs))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# A head for each task


@pytest.mark.slow
def test_a_row_is_answered_by_the_head_of_its_task() -> None:
    model = task_heads(body_and_head(), tasks=4)
    heads: Any = model[2]  # type: ignore[index]
    nn.init.normal_(heads.weight)
    x, number = torch.randn(9, 5), torch.arange(9) % 4
    features = model[:2](x)  # type: ignore[index]
    expected = torch.stack([heads.weight[t] @ f + heads.bias[t] for f, t in zip(features, number, strict=True)])
    torch.testing.assert_close(model({"inputs": x, "task": number}), expected)


def test_a_table_model_takes_tasks_with_its_other_inputs_and_fisher_stays_with_the_head() -> None:
    model = task_heads(TableMLP(TableShape(3, 1, 8, 2), hidden=[4]), tasks=3)
    inputs = {"numeric": torch.randn(6, 3), "categorical": torch.zeros(6, 1, 2, dtype=torch.int64)}
    rows = with_task(Batch(inputs, torch.zeros(6, dtype=torch.int64), task=torch.ones(6, dtype=torch.int64)))
    fisher = fisher_diagonal(model, Multiclass(2), rows)["layers.2.weight"]
    assert fisher[1].sum() > 0
    assert fisher[[0, 2]].sum() == 0


@pytest.mark.parametrize("optimizer", HEAVY)
def test_isolated_heads_on_a_frozen_body_answer_the_same_bits_over_three_tasks(optimizer: str) -> None:
    model = task_heads(freeze(body_and_head(), train="2"), tasks=3)
    learner = Learner(model, Multiclass(2), HEAVY[optimizer], [Replay(50), Isolate()], batch_size=16)
    found: list[Tensor] = []
    for number in range(3):
        before = learner.predict(task(number).inputs)
        learner.learn(task(number))
        found.append(learner.predict(task(number).inputs))
        assert not torch.equal(found[-1], before)
        assert all(torch.equal(learner.predict(task(old).inputs), answer) for old, answer in enumerate(found))


def test_rows_without_a_task_are_refused_with_advice() -> None:
    model = task_heads(body_and_head(), tasks=2)
    with pytest.raises(ArgumentError, match=r'task_heads: expected inputs .* "task".*got a tensor; name the column'):
        model(torch.randn(1, 5))
    with pytest.raises(ArgumentError, match=r"with_task: expected a batch with tasks"):
        with_task(Batch(torch.zeros(1), torch.zeros(1)))
    with pytest.raises(StrategyError, match=r"isolate: expected a model with task-specific weights, got Sequential"):
        Learner(body_and_head(), Multiclass(2), torch.optim.SGD, [Isolate()])


# A head that grows


def with_room(capacity: int, seen: int = 3, **arguments: Any) -> Learner:
    """A model for `capacity` classes; its first `seen` rows of the head do not depend on the capacity."""
    model = body_and_head(3)
    head = nn.Linear(8, capacity)
    with torch.no_grad():
        head.weight[:seen] = model[2].weight[:seen]  # type: ignore[index]
        head.bias[:seen] = model[2].bias[:seen]  # type: ignore[index]
    model[2] = head
    objective = Multiclass(3) if capacity == 3 else GrowingMulticlass(capacity)
    return Learner(model, objective, HEAVY[arguments.pop("optimizer", "sgd")], batch_size=16, **arguments)


def labelled(classes: list[int], count: int = 120, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.tensor(classes)[torch.randint(len(classes), (count,), generator=generator)]
    return Batch(torch.randn(count, 5, generator=generator) + targets[:, None], targets)


@pytest.mark.parametrize("optimizer", HEAVY)
def test_a_growing_head_equals_a_full_head_of_the_seen_classes(optimizer: str) -> None:
    roomy, full = with_room(10, optimizer=optimizer), with_room(3, optimizer=optimizer)
    rows = labelled([0, 1, 2])
    for learner in (roomy, full):
        learner.absorb(learner.observe(rows))
        learner.learn(rows)
        learner.learn(rows)
    for name, weight in full.model.state_dict().items():
        torch.testing.assert_close(roomy.model.state_dict()[name][: len(weight)], weight)
    ours = roomy.predict(rows.inputs)
    torch.testing.assert_close(ours[:, :3], full.predict(rows.inputs))
    assert ours[:, 3:].abs().sum() == 0


def test_when_a_class_arrives_it_equals_a_head_rebuilt_with_one_more_row() -> None:
    learner, rebuilt = with_room(6, shuffle=False), with_room(6, shuffle=False)
    first, later = labelled([0, 1]), labelled([0, 1, 4], seed=1)
    for each in (learner, rebuilt):
        each.absorb(each.observe(first))
        each.learn(first)
    head: Any = rebuilt.model[2]  # type: ignore[index]
    momentum = rebuilt.optimizer.state[head.weight]["momentum_buffer"]
    decayed = head.weight.detach().clone()
    # Nothing but decay has happened to the row of a class that nobody has seen.
    torch.manual_seed(0)
    drawn = with_room(6).model[2].weight.detach()  # type: ignore[index]
    ratio = decayed[2:] / drawn[2:]
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))
    # Learning on with only rows 0, 1, 4 present, in a head of three rows with their momentum:
    small = nn.Linear(8, 3)
    kept = torch.tensor([0, 1, 4])
    with torch.no_grad():
        small.weight.copy_(head.weight[kept])
        small.bias.copy_(head.bias[kept])
    bias = rebuilt.optimizer.state[head.bias]["momentum_buffer"]
    rebuilt.model[2] = small  # type: ignore[operator]
    grown = Learner(rebuilt.model, Multiclass(3), HEAVY["sgd"], batch_size=16, shuffle=False)
    for old, new in zip(rebuilt.context.parameters[:2], grown.context.parameters[:2], strict=True):
        grown.optimizer.state[new]["momentum_buffer"] = rebuilt.optimizer.state[old]["momentum_buffer"]
    grown.optimizer.state[small.weight]["momentum_buffer"] = momentum[kept]
    grown.optimizer.state[small.bias]["momentum_buffer"] = bias[kept]
    learner.absorb(learner.observe(later))
    learner.learn(later)
    renumbered = torch.searchsorted(kept, later.targets)
    grown.learn(Batch(later.inputs, renumbered))
    torch.testing.assert_close(learner.predict(later.inputs)[:, kept], grown.predict(later.inputs))


def test_a_class_that_one_worker_meets_is_known_to_all_after_the_exchange() -> None:
    workers = [with_room(6), with_room(6)]
    parts = [labelled([0, 1]), labelled([1, 5], seed=1)]
    measured = [worker.observe(part) for worker, part in zip(workers, parts, strict=True)]
    total = {name: measured[0][name] + measured[1][name] for name in measured[0]}
    anchor = {name: value.clone() for name, value in workers[0].weights().items()}
    updates = []
    for worker, part in zip(workers, parts, strict=True):
        worker.adopt(anchor)
        worker.absorb(total)
        updates.append(worker.learn(part))
    anchor["objective.counts"] = anchor["objective.counts"] + total["objective.counts"]
    merged = mean(updates, anchor, workers[0].rules())
    for worker in workers:
        worker.adopt(merged)
        assert (worker.predict(parts[0].inputs) > 0).any(0).tolist() == [True, True, False, False, False, True]
    assert merged["objective.counts"].sum() == 240


def test_fisher_of_classes_not_seen_is_zero_and_their_rows_are_free_to_move() -> None:
    learner = Learner(body_and_head(20), GrowingMulticlass(20), HEAVY["sgd"], [EWC(1.0)], batch_size=16)
    rows = labelled([0, 2])
    learner.absorb(learner.observe(rows))
    learner.learn(rows)
    ewc: Any = learner.strategies[0]
    fisher = ewc.fisher.get_buffer("2/weight").sum(1)
    assert (fisher > 0).nonzero().flatten().tolist() == [0, 2]
    assert all(torch.isfinite(value).all() for value in learner.weights().values())


def test_targets_not_observed_before_are_learned_all_the_same() -> None:
    objective = GrowingMulticlass(4)
    loss = objective(torch.zeros(2, 4), torch.tensor([1, 3]))
    torch.testing.assert_close(loss, torch.tensor(2.0).log())
    weighted = objective(torch.zeros(2, 4), torch.tensor([1, 3]), torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(weighted, loss)
    torch.testing.assert_close(objective.rows(torch.zeros(2, 4), torch.tensor([1, 3])), loss.expand(2))
    torch.testing.assert_close(objective.predict(torch.zeros(1, 4)), torch.full((1, 4), 0.25))


def test_a_class_beyond_the_capacity_is_refused_before_it_is_learned() -> None:
    with pytest.raises(ArgumentError, match=r"growing.capacity: expected .* below 6, got 7; .* at least 8"):
        with_room(6).observe(labelled([1, 7]))


def test_adapted_models_can_be_copied_whole() -> None:
    model = task_heads(body_and_head(), tasks=3)
    nn.init.normal_(model[2].weight)  # type: ignore[index]
    again = copy.deepcopy(model)
    nn.init.zeros_(model[2].weight)  # type: ignore[index]
    rows = task(1).inputs
    assert again(rows).abs().sum() > 0
    torch.testing.assert_close(model(rows), model[2].bias[1].expand(100, 2))  # type: ignore[index]


# Discriminant analysis


def clouds(count: int = 400) -> Batch:
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(4, (count,), generator=generator)
    centres = 2 * torch.randn(4, 6, generator=generator)
    mixing = torch.randn(6, 6, generator=generator)
    return Batch(centres[targets] + torch.randn(count, 6, generator=generator) @ mixing, targets)


def analyst(shrinkage: float = 0.0) -> Learner:
    torch.manual_seed(0)
    model = lda(nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 4)), shrinkage)
    return Learner(model, Multiclass(4), torch.optim.SGD, [SLDA()], batch_size=32)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("order", ["mixed", "class by class"])
def test_streaming_analysis_equals_the_closed_form_in_any_split(workers: int, order: str) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    rows = clouds()
    if order == "class by class":
        rows = rows.take(rows.targets.argsort())
    learners = [analyst() for _ in range(workers)]
    for increment in rows.split(170):
        parts = increment.split(-(-len(increment) // workers))
        anchor = {name: value.clone() for name, value in learners[0].weights().items()}
        updates = [learner.learn(part) for learner, part in zip(learners, parts, strict=False)]
        merged = {name: value.clone() for name, value in mean(updates, anchor, learners[0].rules()).items()}
        for learner in learners:
            learner.adopt(merged)
    inputs = rows.inputs.double().numpy()  # type: ignore[union-attr]
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(inputs, rows.targets.numpy())
    scores = torch.from_numpy(theirs.decision_function(inputs)) - torch.from_numpy(theirs.priors_).log()
    expected = scores.softmax(1).float()
    torch.testing.assert_close(learners[-1].predict(rows.inputs), expected, atol=1e-4, rtol=1e-4)


def test_full_shrinkage_is_the_nearest_class_mean_and_weights_count_as_rows() -> None:
    rows = clouds()
    inputs = rows.inputs
    assert isinstance(inputs, Tensor)
    learner = analyst(shrinkage=1.0)
    learner.learn(rows)
    means = torch.stack([inputs[rows.targets == c].mean(0) for c in range(4)])
    assert torch.equal(learner.predict(inputs).argmax(1), torch.cdist(inputs, means).argmin(1))
    once, twice = StreamingLDA(6, 4), StreamingLDA(6, 4)
    once.add(torch.cat([inputs, inputs[:9]]), torch.cat([rows.targets, rows.targets[:9]]))
    twice.add(inputs, rows.targets, 1.0 + (torch.arange(400) < 9).float())
    for one, other in zip(once.buffers(), twice.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_classes_never_seen_are_never_predicted() -> None:
    learner, rows = analyst(shrinkage=1e-4), clouds()
    learner.learn(rows.take((rows.targets < 2).nonzero().flatten()))
    found = learner.predict(rows.inputs)
    assert found[:, 2:].sum() == 0
    assert torch.isfinite(found).all()


def test_analysis_without_its_head_is_refused_with_advice() -> None:
    with pytest.raises(StrategyError, match=r"slda: expected .* last layer is StreamingLDA, got Linear; make it"):
        Learner(body_and_head(), Multiclass(2), torch.optim.SGD, [SLDA()])


# Experts


@pytest.mark.parametrize("optimizer", HEAVY)
def test_old_experts_answer_the_same_bits_over_three_tasks(optimizer: str) -> None:
    torch.manual_seed(0)
    member = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    learner = Learner(experts(member, tasks=3, features=5), Multiclass(2), HEAVY[optimizer], batch_size=16)
    found: list[Tensor] = []
    for number in range(3):
        learner.learn(task(number))
        found.append(learner.predict(task(number).inputs))
        assert all(torch.equal(learner.predict(task(old).inputs), answer) for old, answer in enumerate(found))


def test_the_gate_finds_the_task_and_rows_keep_their_order() -> None:
    learner = Learner(experts(body_and_head(), tasks=4, features=5), Multiclass(2), HEAVY["sgd"], batch_size=16)
    for number in (0, 1, 3):
        learner.learn(task(number))
    told = [task(number, 7) for number in (3, 0, 1)]
    tensors = [batch.inputs["inputs"] for batch in told]  # type: ignore[index]
    mixed = torch.stack(tensors, dim=1).flatten(0, 1)
    guessed = learner.predict(mixed)
    for place, batch in enumerate(told):
        torch.testing.assert_close(guessed[place::3], learner.predict(batch.inputs))


def test_experts_gather_statistics_of_their_own_tasks_only() -> None:
    ensemble = experts(TableMLP(TableShape(5, 0, 2, 2), hidden=[4]), tasks=2)
    learner = Learner(ensemble, Multiclass(2), HEAVY["sgd"])
    measured = learner.observe(task(1, 10))
    learner.absorb(measured)
    members: Any = ensemble.members
    sums = [member.moments.sums[0, 0].item() for member in members]
    assert sums == [0.0, 10.0]


def test_experts_say_what_they_miss() -> None:
    ensemble = experts(body_and_head(), tasks=2)
    with pytest.raises(ArgumentError, match=r"experts: expected tasks from 0 to 1, got 5; make room with tasks = 6"):
        ensemble({"inputs": torch.zeros(1, 5), "task": torch.tensor([5])})
    with pytest.raises(ArgumentError, match=r'experts: expected inputs that hold "task", got none'):
        ensemble.eval()(torch.zeros(1, 5))


def test_growing_state_never_changes_shape() -> None:
    learner = with_room(6)
    before = {name: value.shape for name, value in learner.weights().items()}
    for classes in ([0], [0, 1], [5, 3]):
        rows = labelled(classes)
        learner.absorb(learner.observe(rows))
        learner.learn(rows)
    assert {name: value.shape for name, value in learner.weights().items()} == before
    again = with_room(6)
    again.adopt(learner.weights())
    again.load_state_dict(learner.state_dict())
    assert same(again.weights(), learner.weights())
