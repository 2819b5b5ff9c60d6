"""Random numbers of torch, Python and numpy come from the learner's seed, and are where they were when it goes on."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.models import TableMLP, TableShape
from incr_core.numerics import global_random_state
from incr_core.numerics._draws import draws_nothing, draws_only_from_torch
from incr_core.objectives import Binary
from incr_core.storage.packing import pack, unpack
from incr_core.strategies import Context, Replay, Strategy


class Jitter(nn.Module):
    """Adds noise from whatever draws it."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw
        self.linear = nn.Linear(2, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.linear(inputs + self.draw())
        return output


DRAWS: dict[str, Callable[[], float]] = {
    "random": random.random,
    "gauss of random": lambda: random.gauss(0.0, 1.0),
    "numpy": np.random.rand,
    "normal of numpy": np.random.randn,
    "shuffle of numpy": lambda: float(np.random.permutation(5)[0]),
    "torch": lambda: float(torch.rand(())),
}


def learner_of(draw: Callable[[], float], seed: int = 5) -> Learner:
    torch.manual_seed(0)
    model = Jitter(draw)
    return Learner(model, Binary(), partial(torch.optim.SGD, lr=0.1), batch_size=4, seed=seed)


def rows_of(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(20, 2, generator=generator), torch.randint(2, (20,), generator=generator).float())


def somewhere_else() -> None:
    """Another process, or one that has drawn meanwhile."""
    random.seed()
    np.random.seed()
    torch.seed()


@pytest.mark.parametrize("draw", DRAWS)
def test_a_run_is_repeatable_and_resumes_to_the_same_bits(draw: str) -> None:
    """Stopped after any number of steps, odd ones too: normal numbers are drawn in pairs."""
    whole = learner_of(DRAWS[draw])
    for seed in range(3):
        whole.learn(rows_of(seed))
        somewhere_else()
    for taken in (1, 2, 3):
        stopped, fresh = learner_of(DRAWS[draw]), learner_of(DRAWS[draw], seed=6)
        somewhere_else()
        stopped.learn(rows_of(0))
        stopped.begin(rows_of(1))
        stopped.advance(taken)
        tensors, rest = pack({"weights": stopped.weights(), "learner": stopped.state_dict()})
        state = unpack(tensors, json.loads(json.dumps(rest)))
        somewhere_else()
        fresh.adopt(state["weights"])
        fresh.load_state_dict(state["learner"])
        for seed in (1, 2):
            fresh.learn(rows_of(seed))
        for name, value in whole.weights().items():
            assert torch.equal(fresh.weights()[name], value), (taken, name)
    other = learner_of(DRAWS[draw], seed=6)
    other.learn(rows_of(0))
    assert not torch.equal(other.weights()["model.linear.weight"], whole.weights()["model.linear.weight"])


@pytest.mark.parametrize("draw", DRAWS)
def test_whoever_else_draws_finds_the_generators_where_they_were(draw: str) -> None:
    learner = learner_of(DRAWS[draw])
    for seeded in (random.seed, np.random.seed, torch.manual_seed):
        seeded(9)
    expected = [random.gauss(0.0, 1.0), random.gauss(0.0, 1.0), *np.random.randn(3), *torch.rand(2).tolist()]
    for seeded in (random.seed, np.random.seed, torch.manual_seed):
        seeded(9)
    found = [random.gauss(0.0, 1.0)]
    learner.learn(rows_of(0))
    found += [random.gauss(0.0, 1.0), np.random.randn()]  # the second of a pair waits meanwhile
    learner.predict(rows_of(0).inputs)
    found += [*np.random.randn(2), *torch.rand(2).tolist()]
    assert found == expected


def test_a_strategy_of_ones_own_draws_from_the_seed() -> None:
    class Noise(Strategy):
        def loss(self, ctx: Context, batch: Batch, output: Tensor) -> dict[str, Tensor]:
            return {"noise": (output * random.random()).mean()}

    found = []
    for _ in range(2):
        torch.manual_seed(0)
        somewhere_else()
        learner = Learner(nn.Linear(2, 1).requires_grad_(), Binary(), torch.optim.SGD, [Noise()])
        with torch.no_grad():
            learner.model.weight.fill_(1.0)  # type: ignore[operator]
            learner.model.bias.fill_(0.0)  # type: ignore[operator]
        found.append(learner.learn(rows_of(0)).losses["noise"])
    assert found[0] == found[1] != 0.0


def test_states_of_runs_before_these_were_kept_are_taken() -> None:
    state, expected = global_random_state(3, others=True), global_random_state(3, others=True)
    old = {name: value for name, value in global_random_state(4).state_dict().items() if name != "others"}
    state.load_state_dict(old)
    with expected:
        python = random.random()
    with state:
        assert random.random() == python
        assert float(torch.rand(())) == float(torch.rand((), generator=torch.Generator().manual_seed(4)))


def test_plain_models_swap_no_more_than_they_need() -> None:
    table = TableMLP(TableShape(3, 1, 16, 1), [4])
    dropped = TableMLP(TableShape(3, 1, 16, 1), [4], dropout=0.1)
    assert draws_nothing(table, Binary())
    assert not draws_nothing(dropped, Binary())
    assert draws_only_from_torch(table, dropped, Binary(), Replay(10), nn.Dropout(0.5), nn.LSTM(1, 1))
    assert draws_only_from_torch(Jitter(DRAWS["torch"]))


def through_another() -> float:
    return DRAWS["numpy"]()


class Imports(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        from random import random as draw

        return inputs * draw()


class Keeps(nn.Module):
    def __init__(self, held: object) -> None:
        super().__init__()
        self.held = held


class Inherits(Imports):
    pass


class Nested(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([row * (lambda: np.random.rand())() for row in inputs])


@pytest.mark.parametrize(
    "model",
    [
        *(Jitter(draw) for name, draw in DRAWS.items() if name != "torch"),
        Jitter(through_another),
        Jitter(partial(random.uniform, 0.0, 1.0)),
        Imports(),
        Inherits(),
        Nested(),
        Keeps(random.Random(0)),
        Keeps({"inner": [nn.Sequential(Imports())]}),
    ],
)
def test_whoever_may_draw_is_found(model: nn.Module) -> None:
    assert not draws_only_from_torch(nn.Sequential(model))


class Plain(nn.Module):
    """As most are: it names torch, what stands beside it, and data."""

    SIZES = (2, 3)

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, size) for size in self.SIZES)
        self.scale = scale
        self.activation = torch.nn.functional.gelu
        self.table = np.arange(3)

    @property
    def width(self) -> int:
        return max(self.SIZES)

    def forward(self, inputs: Tensor) -> Tensor:
        return squared(self.activation(inputs)) * self.scale + len(self.layers) + math.pi


def squared(inputs: Tensor) -> Tensor:
    return inputs.square() if inputs.numel() > 1 else squared(inputs.expand(2))


def test_a_plain_model_of_ones_own_is_known_to_draw_from_torch_alone() -> None:
    assert draws_only_from_torch(Plain())


def test_a_class_says_for_itself_that_it_draws_nothing() -> None:
    """One that inherits from it may draw."""

    class Blurred(Binary):
        def rows(self, output: Tensor, targets: Tensor) -> Tensor:
            return super().rows(output, targets) + random.random()

    class Settled(nn.Linear):
        draws_nothing = True

    assert not draws_nothing(Blurred())
    assert draws_nothing(Settled(1, 1))
    assert not draws_nothing(type("Later", (Settled,), {})(1, 1))


def test_what_hooks_draw_is_seen() -> None:
    layer = nn.Linear(1, 1)
    layer.register_forward_hook(lambda module, arguments, output: output + random.random())
    assert not draws_nothing(layer)
    assert not draws_only_from_torch(layer)
