"""Strategies together: in any order where order means nothing, and refused where one undoes the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch, cat
from incr_core.errors import ArgumentError, StrategyError
from incr_core.learner import Learner
from incr_core.models import Activations, TableMLP, TableShape
from incr_core.models.adapt import bitfit, experts, head_only, lda, nearest_mean, task_heads, with_task
from incr_core.objectives import Multiclass
from incr_core.strategies import (
    ACE,
    AGEM,
    DER,
    EWC,
    L2SP,
    MAS,
    MIR,
    SI,
    SLDA,
    STRATEGIES,
    Context,
    ElasticNet,
    FeatureDistillation,
    GDumb,
    ICaRL,
    Isolate,
    LwF,
    PackNet,
    Replay,
    Selective,
    Strategy,
    Traits,
)
from incr_core.testing._trial import three_classes

HEAVY = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)

Make = Callable[[], Strategy]


class Nudge(Strategy):
    """One's own: it moves every weight after every step."""

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        for weight in ctx.parameters:
            weight.mul_(0.99)


class Silent(Strategy):
    """Appends rows that count for nothing."""

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        return cat([batch, replace(batch.map(torch.zeros_like), weights=torch.zeros(len(batch)))])


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def tasks() -> list[Batch]:
    """An increment a task, whose steps hold rows of one task each, in turn: of task 0 there are some in all of them."""
    parts = [labelled.slice(0, 32) for labelled in three_classes()]
    told = [with_task(replace(part, task=torch.full((32,), number))) for number, part in enumerate(parts)]
    first = told[0].split(8)
    return [cat([first[0], first[1]]), cat([told[1], first[2]]), cat([told[2], first[3]])]


def one_class_each() -> list[Batch]:
    """Increments that contradict one another."""
    rows = cat(list(three_classes()))
    return [rows.take((rows.targets == number).nonzero().flatten()) for number in range(3)]


def learner(strategies: Sequence[Strategy], model: Callable[[], nn.Module] = plain) -> Learner:
    torch.manual_seed(0)
    return Learner(model(), Multiclass(3), HEAVY, strategies, batch_size=8, shuffle=False)


def learned(strategies: Sequence[Strategy], model: Callable[[], nn.Module], rows: Sequence[Batch]) -> dict[str, Tensor]:
    one = learner(strategies, model)
    for labelled in rows:
        one.learn(labelled)
    return one.weights()


def with_heads() -> nn.Module:
    return task_heads(plain(), tasks=3)


def with_means() -> nn.Module:
    return nearest_mean(plain())


def with_lda() -> nn.Module:
    return lda(plain(), frozen=False)


PAIRS: dict[str, tuple[Make, Make, Callable[[], nn.Module]]] = {
    "new rows are known behind replay": (ACE, partial(Replay, 20), plain),
    "new rows are known behind der": (ACE, partial(DER, 20), plain),
    "interference is that of rows set aside": (ACE, partial(MIR, 20, candidates=10), plain),
    "a path is of the loss alone": (partial(SI, 20.0), partial(L2SP, 1.0), plain),
    "a path ends where the step ends": (partial(SI, 20.0), partial(ElasticNet, 0.1), plain),
    "a path counts nothing that was put back": (partial(SI, 20.0), PackNet, plain),
    "penalties are turned too": (partial(AGEM, 20, rows=8), partial(L2SP, 1.0), plain),
    "no mask is undone": (partial(AGEM, 20, rows=8), PackNet, plain),
    "importance is measured after pruning": (partial(MAS, 1.0), PackNet, plain),
    "importance is measured with new means": (EWC, partial(ICaRL, 20), with_means),
    "features are of the weights there are": (SLDA, partial(ElasticNet, 0.1), with_lda),
    "a head is put back last": (Isolate, partial(ElasticNet, 0.1), with_heads),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_order_makes_no_difference(pair: tuple[Make, Make, Callable[[], nn.Module]], weighted: bool) -> None:
    one, two, model = pair
    rows = tasks() if model is with_heads else one_class_each()
    if weighted:
        rows = [replace(part, weights=torch.linspace(0.1, 2.0, len(part))) for part in rows]
    expected, found = learned([one(), two()], model, rows), learned([two(), one()], model, rows)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    for alone in (one, two):  # and both did something
        less = learned([alone()], model, rows)
        assert any(not torch.equal(value, expected[name]) for name, value in less.items())


def test_interference_is_looked_for_although_new_rows_are_set_aside() -> None:
    chosen = []

    class Spy(MIR):
        def _harm(self, ctx: Context, batch: Batch, found: Batch) -> Tensor:
            chosen.append(super()._harm(ctx, batch, found))
            return chosen[-1]

    learned([ACE(), Spy(20, candidates=10)], plain, list(three_classes()))
    assert all(harm.abs().sum() > 0 for harm in chosen)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_icarl_leaves_rows_appended_behind_it_alone(weighted: bool) -> None:
    rows = list(three_classes())
    if weighted:
        rows = [replace(part, weights=torch.linspace(0.1, 2.0, len(part))) for part in rows]
    expected, found = (learned([ICaRL(20), *more], with_means, rows) for more in ([], [Silent()]))
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])


class Count(Strategy):
    """Writes down how many rows there are behind those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        self.rows.append(len(batch))
        return batch


REMEMBERED: dict[str, tuple[Make, int]] = {
    "replay": (partial(Replay, 20, ratio=0.5), 4),
    "der": (partial(DER, 20, ratio=0.5), 8),  # for each of its two terms
    "mir": (partial(MIR, 20, candidates=10), 8),
    "icarl": (partial(ICaRL, 20), 8),
}


@pytest.mark.parametrize(
    ("one", "other"),
    [pair for pair in product(REMEMBERED, repeat=2) if pair != ("icarl", "icarl")],  # which is refused
)
def test_remembered_rows_are_counted_per_new_row_whatever_was_appended_before(one: str, other: str) -> None:
    (make, rows), (make_other, rows_other), count = REMEMBERED[one], REMEMBERED[other], Count()
    learned([make(), make_other(), count], with_means, list(three_classes()))
    assert max(count.rows) == 8 + rows + rows_other  # in steps of 8 new rows, but for the last of each increment


PACKABLE = {name: kind for name, kind in STRATEGIES.items() if not kind.traits.alone} | {"own": Nudge}
FEW: dict[str, Any] = {"icarl": {"capacity": 20}, "agem": {"rows": 8}, "elastic": {"l1": 0.1, "l2": 0.1}}
MODELS: dict[str, Any] = {"icarl": with_means, "slda": with_lda, "isolate": with_heads}


@pytest.mark.parametrize("name", PACKABLE)
@pytest.mark.parametrize("last", [True, False], ids=["last", "first"])
def test_what_packnet_keeps_stays_the_same_bits_beside_any_other(name: str, last: bool) -> None:
    packnet, other = PackNet(tasks=3), PACKABLE[name](**FEW.get(name, {}))
    one = learner([other, packnet] if last else [packnet, other], MODELS.get(name, plain))
    rows, answers = tasks() if name == "isolate" else list(three_classes()), list[Tensor]()
    for number, labelled in enumerate(rows):
        one.learn(labelled)
        for task in range(number + 1):
            with packnet.as_task(one.context, task), torch.no_grad():
                answer = one.model(rows[task].inputs)
            if task == len(answers):
                answers.append(answer)
            assert torch.equal(answer, answers[task])


def test_a_teacher_is_what_was_put_back() -> None:
    lwf, rows = LwF(), list(three_classes())
    one = learner([lwf, PackNet(tasks=3)])
    one.learn(rows[0])
    one.adopt({name: value + 0.1 for name, value in one.weights().items()})  # as an outer step might leave them
    one.begin(rows[1])
    for taught, weight in zip(lwf.teacher.weights.tensors(), one.context.parameters, strict=True):
        assert torch.equal(taught, weight)


@pytest.mark.parametrize("other", [Nudge, partial(ElasticNet, 0.1), partial(L2SP, 1.0), partial(SI, 20.0), Replay])
@pytest.mark.parametrize("last", [True, False], ids=["last", "first"])
def test_heads_of_absent_tasks_stay_still_beside_any_other(other: Make, last: bool) -> None:
    one = learner([other(), Isolate()] if last else [Isolate(), other()], with_heads)
    _still(one, lambda number: [weight[number] for weight in one.model[2].parameters()])  # type: ignore[index]


@pytest.mark.parametrize("other", [partial(ElasticNet, 0.1, 0.1), partial(L2SP, 1.0), partial(SI, 20.0), LwF])
def test_absent_experts_stay_still_beside_any_other(other: Make) -> None:
    one = learner([other()], lambda: experts(plain(), tasks=3))
    _still(one, lambda number: list(one.model.members[number].parameters()))  # type: ignore[index,union-attr]


def _still(one: Learner, weights_of: Callable[[int], list[Tensor]]) -> None:
    for labelled in tasks():
        one.begin(labelled)
        for part in labelled.split(8):
            assert part.task is not None
            absent = [number for number in range(3) if number != int(part.task[0])]
            before = [weight.detach().clone() for number in absent for weight in weights_of(number)]
            one.advance(1)
            now = [weight for number in absent for weight in weights_of(number)]
            assert all(torch.equal(one, other) for one, other in zip(now, before, strict=True))
        one.end(labelled)


# What cannot be right


class Jealous(Strategy):
    """One's own that bears no other."""

    traits = Traits(alone="it knows best")


@pytest.mark.parametrize("other", [EWC, Replay, PackNet, ACE, Nudge])
def test_gdumb_stands_alone(other: Make) -> None:
    name = getattr(other, "__name__", "")
    with pytest.raises(StrategyError, match=rf"strategy: expected GDumb alone, got it beside {name}: it retrains from"):
        learner([other(), GDumb()])
    with pytest.raises(StrategyError, match=rf"got it beside {name} and {name}: .* discards .*; remove one of them"):
        learner([GDumb(), other(), other()])


def test_ones_own_may_stand_alone_too() -> None:
    learner([Jealous()])
    with pytest.raises(StrategyError, match="expected Jealous alone, got it beside L2SP: it knows best; remove"):
        learner([L2SP(), Jealous()])


@pytest.mark.parametrize("kind", [EWC, MAS, FeatureDistillation])
def test_what_needs_one_way_for_all_rows_refuses_experts(kind: type[Strategy]) -> None:
    with pytest.raises(StrategyError, match=r"(ewc|mas|features): expected a model that all rows go .* got Experts"):
        learner([kind()], lambda: experts(plain(), tasks=3))


@pytest.mark.parametrize("adapt", [bitfit, head_only, nearest_mean, lda])
def test_the_layer_below_heads_for_tasks_is_not_taken_for_the_last(adapt: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(ArgumentError, match=r"whose last layer is nn.Linear, got TaskHeads; make heads"):
        adapt(with_heads())
    with pytest.raises(ArgumentError, match="expected a model that all rows go through, got Experts"):
        adapt(experts(plain(), tasks=2))


def test_activations_below_heads_for_tasks_are_distilled() -> None:
    model = with_heads()
    activations, rows = Activations(model, "features"), tasks()[0]
    with activations.read():
        model(rows.inputs)
    torch.testing.assert_close(activations.last, model[:2](rows.inputs["inputs"]))  # type: ignore[index]


def test_gdumb_goes_on_normalising_by_all_rows_seen() -> None:
    one = learner([GDumb(20, passes=1)], lambda: TableMLP(TableShape(4, 0, 1, 3), [8]))
    for labelled in three_classes():
        one.absorb(one.observe(labelled))
        one.learn(labelled)
    rows = torch.cat([labelled.inputs for labelled in three_classes()])  # type: ignore[misc]
    moments: Any = one.model.moments
    torch.testing.assert_close(moments.standardise(rows).mean(0), torch.zeros(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "off",
    [
        partial(DER, logits=0.0, labels=0.0),
        partial(DER, ratio=0.0),
        partial(LwF, 0.0),
        partial(FeatureDistillation, 0.0),
        partial(ACE, margin=0.0),
        partial(GDumb, passes=0),
    ],
)
def test_what_is_turned_off_is_as_if_it_were_not_there(off: Make) -> None:
    """Where rows are chosen before they are run backward, too, which terms of the loss would make impossible."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 4, generator=generator)
    rows = Batch(inputs, inputs[:, :3].argmax(1))

    def found(*strategies: Strategy) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        one = Learner(model, Multiclass(3), HEAVY, strategies, batch_size=64)
        for _ in range(2):
            one.learn(rows)
        return one.weights()

    expected = found(Selective(beta=4.0))
    for strategies in ([off(), Selective(beta=4.0)], [Selective(beta=4.0), off()]):
        assert all(torch.equal(value, expected[name]) for name, value in found(*strategies).items())


@pytest.mark.parametrize(
    "make", [partial(LwF, 0.0), partial(DER, 9, ratio=0.0), partial(ACE, 0.0), partial(ICaRL, 9, 0.0)]
)
def test_one_turned_off_does_not_keep_shards_from_dividing_a_batch(make: Make) -> None:
    model = nearest_mean(plain()) if make.func is ICaRL else plain()  # type: ignore[attr-defined]
    batch = next(iter(three_classes()))
    for chain in ([], [make()]):
        learner = Learner(model, Multiclass(3), HEAVY, chain, shard=(0, 2))
        learner.again(batch)
        assert len(learner.division.share(batch)[0]) == len(batch) // 2
