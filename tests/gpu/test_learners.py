"""Learners on a GPU: equal to those on a CPU to rounding, and to themselves to the bit; resumed, recorded, in half
precision.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.learner import Learner, OptimizerFactory
from incr_core.memories import Memory
from incr_core.models import TableMLP, TableShape
from incr_core.numerics import settle_arithmetic
from incr_core.objectives import Multiclass
from incr_core.strategies import L2SP, STRATEGIES, FedProx, Replay, Strategy
from incr_core.testing import check_strategy
from incr_core.testing._trial import three_classes
from tests.support.stacked import learned_alike
from tests.support.strategy_trials import ARGUMENTS, INCREMENTS, MODELS, ZERO

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DRAWS = {"agem", "der", "gdumb", "icarl", "mir", "packnet", "replay", "selective", "small_loss"}
"""Strategies that draw rows or numbers: a GPU draws others than a CPU does."""

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
OPTIMIZERS: dict[str, OptimizerFactory] = {
    "sgd": SGD,
    "fused sgd": partial(SGD, fused=True),
    "adam": partial(torch.optim.Adam, lr=0.01, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=0.01, fused=True, weight_decay=0.1),
}


@pytest.fixture(autouse=True)
def _settled() -> None:
    settle_arithmetic(1, "cuda")


def network(dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3)
    )


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def learner(device: str, strategies: Sequence[Strategy] = (), make: Any = network, **settings: Any) -> Learner:
    torch.manual_seed(3)
    model = make().to(device)
    settings = {"optimizer": SGD, "batch_size": 8, "epochs": 2, "seed": 5, **settings}
    return Learner(model, Multiclass(3), settings.pop("optimizer"), strategies, **settings)


def weights(one: Learner) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in one.weights().items()}


def learned(one: Learner, increments: Sequence[Batch]) -> dict[str, Tensor]:
    for labelled in increments:
        one.learn(labelled)
    return weights(one)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def close(one: dict[str, Tensor], other: dict[str, Tensor], most: float = 1e-4) -> None:
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=most, atol=most)


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_obey_the_laws(name: str) -> None:
    """Resumed anywhere they come to the same bits, those of the GPU's random numbers too."""
    zero = partial(STRATEGIES[name], **ZERO[name]) if name in ZERO else None
    make = partial(STRATEGIES[name], **ARGUMENTS.get(name, {}))
    check_strategy(make, zero=zero, model=MODELS.get(name), increments=INCREMENTS.get(name), device="cuda")


@pytest.mark.parametrize("memory", ["reservoir", "balanced", "herding", "window", "prototypes"])
def test_memories_obey_the_laws_and_lie_on_the_device(memory: str) -> None:
    check_strategy(partial(Replay, capacity=20, memory=memory), device="cuda")
    one = learner("cuda", [Replay(capacity=20, memory=memory)])
    learned(one, list(three_classes()))
    (held,) = (part for part in one.strategies.modules() if isinstance(part, Memory))
    assert {column.device.type for column in held.rows_held().values()} == {"cuda"}


@pytest.mark.parametrize("name", sorted({*STRATEGIES} - DRAWS))
def test_what_draws_nothing_equals_the_cpu_to_rounding(name: str) -> None:
    make: Callable[[], nn.Module] = MODELS.get(name, network)
    increments = INCREMENTS.get(name) or list(three_classes())
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(3)
        model = make().to(device)
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        strategies = [STRATEGIES[name](**ARGUMENTS.get(name, {}))]
        one = Learner(model, Multiclass(3), SGD, strategies, batch_size=8, epochs=2, seed=5, clip=1.0)
        found.append(learned(one, increments))
    close(found[0], found[1], most=2e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_step_equals_the_cpus_to_rounding_and_itself_to_the_bit(optimizer: str) -> None:
    increments = list(three_classes())
    settings: dict[str, Any] = {"optimizer": OPTIMIZERS[optimizer], "clip": 0.5}
    first, again = (learned(learner("cuda", **settings), increments) for _ in range(2))
    assert same(first, again)
    close(learned(learner("cpu", **settings), increments), first, most=1e-3)


def test_accumulation_is_exact() -> None:
    increments = list(three_classes(rows=40))
    plain: dict[str, Any] = {"make": lambda: nn.Linear(4, 3)}
    two = learned(learner("cuda", batch_size=4, accumulate=2, **plain), increments)
    close(learned(learner("cuda", batch_size=8, **plain), increments), two)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_the_same_bits_twice(precision: str) -> None:
    increments = list(three_classes())
    first, again = (learned(learner("cuda", make=small, precision=precision), increments) for _ in range(2))
    assert same(first, again)
    close(learned(learner("cuda", make=small), increments), first, most=0.1)


def test_rows_come_and_go() -> None:
    batch = next(iter(three_classes()))
    there = batch.to("cuda")
    assert there.targets.is_cuda
    assert isinstance(there.inputs, Tensor)
    assert isinstance(batch.inputs, Tensor)
    assert torch.equal(there.inputs.cpu(), batch.inputs)
    assert torch.equal(there.to("cpu").targets, batch.targets)


def test_the_step_does_not_wait_for_the_device() -> None:
    one = learner("cuda", [Replay(capacity=20, memory="window")], clip=1.0)
    increments = list(three_classes())
    one.learn(increments[0])
    one.begin(increments[1].to("cuda"))
    one.advance(1)
    taken = one.steps.take(None)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with one.forwards.learning:
            for batches in list(taken)[:3]:
                one._step.take(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# -- graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"clip": 0.5}, {"accumulate": 3}, {"precision": "bfloat16"}, {"make": partial(network, 0.3)}],
    ids=["plain", "clip", "accumulate", "bfloat16", "dropout"],
)
def test_recorded_steps_are_the_same_to_the_bit(optimizer: str, settings: dict[str, Any]) -> None:
    increments = list(three_classes(rows=150))
    settings = {"optimizer": OPTIMIZERS[optimizer], **settings}
    eager = learned(learner("cuda", **settings), increments)
    one = learner("cuda", graphs=True, **settings)
    recorded = learned(one, increments)
    assert one.graphs is not None
    assert one.graphs.recorded > 0
    assert same(eager, recorded), {name: float((value - recorded[name]).abs().max()) for name, value in eager.items()}


def test_recorded_steps_remember_rows() -> None:
    increments = list(three_classes(rows=150))
    eager, one = (learner("cuda", [Replay(capacity=30)], graphs=graphs) for graphs in (False, True))
    assert same(learned(eager, increments), learned(one, increments))
    assert one.graphs is not None
    assert one.graphs.recorded > 0


def test_the_built_in_model_is_recorded_while_its_moments_move() -> None:
    draw = torch.Generator().manual_seed(1)

    def rows() -> Batch:
        inputs = {
            "numeric": torch.randn(150, 2, generator=draw),
            "categorical": torch.randint(8, (150, 1, 2), generator=draw),
        }
        return Batch(inputs, torch.randint(3, (150,), generator=draw))

    make = partial(TableMLP, TableShape(numeric=2, categorical=1, buckets=8, outputs=3), [8], 4, 0.1)
    eager, one = (learner("cuda", make=make, graphs=graphs) for graphs in (False, True))
    for labelled in (rows() for _ in range(3)):
        for each in (eager, one):
            each.absorb(each.observe(labelled))
            each.learn(labelled)
            each.predict(labelled.inputs)
    assert one.graphs is not None
    assert one.graphs.recorded > 0
    assert same(weights(eager), weights(one))


def test_recordings_are_let_go_of_where_they_no_longer_hold() -> None:
    """A rate that was changed, and moments that were loaded anew."""
    increments = list(three_classes(rows=150))
    eager, one = (learner("cuda", graphs=graphs) for graphs in (False, True))
    for each in (eager, one):
        each.learn(increments[0])
        each.descent.rate = 0.5
        each.learn(increments[1])
        each.load_state_dict(each.state_dict())
        each.learn(increments[2])
    assert same(weights(eager), weights(one))


class Asks(nn.Module):
    """Waits for the device in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * (2.0 if float(x.detach().sum()) > 1e9 else 1.0)  # type: ignore[no-any-return]


def test_a_model_that_cannot_be_recorded_learns_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    increments = list(three_classes(rows=150))
    asks = learned(learner("cuda", make=Asks), increments)
    with caplog.at_level(logging.WARNING, "incr"):
        found = learned(learner("cuda", make=Asks, graphs=True), increments)
    assert same(asks, found)
    assert "learner.graphs: steps cannot be recorded" in caplog.text
    chance = partial(network, 0.3)  # torch's generator is none that captures, and those to come can be recorded
    eager, one = (learner("cuda", make=chance, graphs=graphs) for graphs in (False, True))
    assert same(learned(eager, increments), learned(one, increments))
    assert one.graphs is not None
    assert one.graphs.recorded > 0


# -- many clients as one batch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["none", "fedprox", "l2sp"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_learners_stacked_are_learners_alone(optimizer: str, strategy: str) -> None:
    def client(seed: int) -> Learner:
        made: dict[str, list[Strategy]] = {"none": [], "fedprox": [FedProx(0.5)], "l2sp": [L2SP(0.5)]}
        strategies = made[strategy]
        return learner("cuda", strategies, small, optimizer=OPTIMIZERS[optimizer], batch_size=4, seed=seed)

    learned_alike([client(seed) for seed in range(4)], [client(seed) for seed in range(4)], rtol=1e-4, atol=1e-4)
