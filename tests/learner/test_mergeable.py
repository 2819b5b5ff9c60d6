"""Strategies on several workers that exchange weights and shared state, as every engine does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.models.adapt import NearestMean
from incr_core.objectives import GrowingMulticlass, Multiclass
from incr_core.strategies import (
    ACE,
    EWC,
    MAS,
    SI,
    Context,
    FeatureDistillation,
    FedProx,
    ICaRL,
    LwF,
    Strategy,
    Traits,
)
from incr_core.update import mean, merge_shared

LR = 0.1


def labelled(classes: Sequence[int], count: int = 24, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.tensor(classes)[torch.randint(len(classes), (count,), generator=generator)]
    return Batch(torch.randn(count, 4, generator=generator, dtype=torch.float64), targets)


def worker(strategy: Strategy, objective: Multiclass | None = None) -> Learner:
    torch.manual_seed(0)
    head = NearestMean(5, 4) if isinstance(strategy, ICaRL) else nn.Linear(5, 4)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), head).double()
    objective = Multiclass(4) if objective is None else objective
    return Learner(model, objective, partial(torch.optim.SGD, lr=LR), [strategy], batch_size=8, shuffle=False)


def round_of(workers: Sequence[Learner], parts: Sequence[Batch], increment: int, rounds: int = 1) -> dict[str, Tensor]:
    """An increment on several workers, in `rounds` rounds; returns the merged weights, which all have adopted."""
    rules = workers[0].shared_state()[1]
    before = {name: value.clone() for name, value in workers[0].shared_state()[0].items()}
    merged = {name: value.clone() for name, value in workers[0].weights().items()}
    for number in range(rounds):
        updates = []
        for learner, part in zip(workers, parts, strict=True):
            learner.adopt(merged)
            if number == 0:
                learner.begin(part, increment=increment)
            else:
                learner.again(part)
            updates.append(learner.advance())
        merged = {name: value.clone() for name, value in mean(updates, merged, workers[0].rules()).items()}
    for learner, part in zip(workers, parts, strict=True):
        learner.adopt(merged)
        learner.end(part)
    states = [learner.shared_state()[0] for learner in workers]
    shared = merge_shared(states, [len(part) for part in parts], rules, before)
    shared = {name: value.clone() for name, value in shared.items()}
    for learner in workers:
        learner.adopt_shared(shared)
    return merged


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "ace": ACE,
    "ewc": partial(EWC, strength=50.0),
    "ewc, separate anchors": partial(EWC, strength=50.0, online=False),
    "features": partial(FeatureDistillation, strength=5.0),
    "lwf": partial(LwF, strength=5.0),
    "mas": partial(MAS, strength=5.0),
    "si": partial(SI, strength=50.0),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_worker_without_rows_learns_on_as_those_who_had_some(name: str) -> None:
    """Idle in two increments, it then takes the same steps on the same rows, pulled and taught alike."""
    busy, idle = worker(STRATEGIES[name]()), worker(STRATEGIES[name]())
    nothing, rows = labelled([0], count=0), labelled([2, 3], seed=9)
    for number, classes in enumerate([[0, 1], [1, 2]]):
        round_of([busy, idle], [labelled(classes, seed=number), nothing], number)
    plain = worker(FedProx(0.0))
    plain.adopt(busy.weights())
    for learner in (busy, idle, plain):
        learner.begin(rows, increment=2)
        learner.advance()
    for place, value in busy.weights().items():
        assert torch.equal(value, idle.weights()[place])
    assert not torch.equal(busy.weights()["model.2.weight"], plain.weights()["model.2.weight"])


def test_exemplars_of_others_make_their_classes_old() -> None:
    """A worker of iCaRL that met nothing distils its new rows over the classes that others have learned."""
    busy, idle = worker(ICaRL(8)), worker(ICaRL(8))
    round_of([busy, idle], [labelled([0, 1]), labelled([0], count=0)], 0)
    strategy = idle.strategies[0]
    assert isinstance(strategy, ICaRL)
    assert strategy.seen.tolist() == [1, 1, 0, 0]
    idle.begin(labelled([2, 3], count=8), increment=1)
    taught = idle.model.train()(labelled([2, 3], count=8).inputs).detach().sigmoid()
    loss = idle.advance().losses["icarl"] / 8
    wanted = torch.cat([taught[:, :2], nn.functional.one_hot(labelled([2, 3], count=8).targets, 4)[:, 2:]], 1)
    expected = -(wanted * taught.log() + (1 - wanted) * (1 - taught).log()).mean()
    assert loss == pytest.approx(float(expected))


def test_a_class_mean_is_that_of_the_workers_who_hold_its_rows() -> None:
    """A worker without a row of a class keeps the mean others told; means that differ merge to their direction."""
    head = NearestMean(2, 3)
    head.tell(torch.eye(3)[:, :2], torch.tensor([1.0, 1.0, 0.0]))
    head.tell(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]), torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(head.means, torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 0.0]]))
    assert head.known.tolist() == [1.0, 1.0, 0.0]
    head.means.copy_(torch.tensor([[0.1, 0.0], [0.0, 1.0], [0.0, 0.0]]))  # what merging can leave
    assert head.eval()(torch.tensor([[1.0, 0.9]])).argmax() == 0


def test_the_anchor_of_fedprox_is_that_of_each_round() -> None:
    """Two workers, two rounds: the second pulls towards the mean of the first, not to where the increment began."""
    strength = 3.0
    workers = [worker(FedProx(strength)) for _ in range(2)]
    parts = [labelled([0, 1]), labelled([2, 3], seed=1)]
    first = round_of([worker(FedProx(strength)) for _ in range(2)], parts, 0)
    round_of(workers, parts, 0, rounds=2)
    # The second round of worker 0 by hand: three steps from the first round's mean, each pulled towards it.
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    seconds = []
    for part in parts:
        model.load_state_dict({name.removeprefix("model."): value for name, value in first.items()})
        for batch in part.split(8):
            loss = nn.functional.cross_entropy(model(batch.inputs), batch.targets)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for (name, weight), gradient in zip(model.named_parameters(), gradients, strict=True):
                    weight.sub_(LR * (gradient + strength * (weight - first[f"model.{name}"])))
        seconds.append({name: weight.detach().clone() for name, weight in model.named_parameters()})
    for name, weight in workers[0].model.named_parameters():
        torch.testing.assert_close(weight.detach(), (seconds[0][name] + seconds[1][name]) / 2)


class Tally(Strategy):
    """Counts rows, and what all workers have counted."""

    traits = Traits(shared={"count": "sum"})
    count: Tensor

    def attach(self, ctx: Context) -> None:
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        self.count += len(batch)


def test_sums_count_every_row_of_every_worker_once() -> None:
    workers = [worker(Tally()) for _ in range(3)]
    assert workers[0].consolidates  # without an `end`, it has something to share
    for number in range(3):
        round_of(workers, [labelled([0], count) for count in (5, 0, 9)], number, rounds=2)
    assert [int(learner.strategies[0].count) for learner in workers] == [3 * 2 * 14] * 3  # type: ignore[arg-type]


def test_a_teacher_denies_the_classes_it_never_met() -> None:
    """LwF's term is the divergence from answers in which new classes have probability 0, and hidden ones no part."""
    learner = worker(LwF(strength=1.0), GrowingMulticlass(4))
    learner.absorb(learner.observe(labelled([0, 1])))
    learner.learn(labelled([0, 1]))
    rows = labelled([2], count=8)
    learner.absorb(learner.observe(rows))
    learner.begin(rows)
    teacher = copy.deepcopy(learner.model)
    strategy = learner.strategies[0]
    assert isinstance(strategy, LwF)
    with torch.no_grad():
        next(learner.model.parameters()).add_(0.5)  # away from the teacher
    output = learner.model(strategy.augment(learner.context, rows).inputs)
    term = strategy.loss(learner.context, rows, output)["lwf"]
    (gradient,) = torch.autograd.grad(term, output)
    # d/do of T^2 KL is T (softmax(o / T) - t) a row: over classes 0 to 2, t over 0 and 1.
    told = nn.functional.pad((teacher(rows.inputs)[:, :2] / 2).softmax(1), (0, 1))
    expected = 2 * ((output[:, :3] / 2).softmax(1) - told) / 8
    torch.testing.assert_close(gradient, nn.functional.pad(expected, (0, 1)))
