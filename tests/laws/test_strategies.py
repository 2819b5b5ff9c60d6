"""Law 5: every strategy obeys the laws that `incr_core.testing._laws` checks, and the check tells those that do not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.memories import Reservoir, columns_of
from incr_core.strategies import STRATEGIES, Context, Replay, Strategy, Traits
from incr_core.strategies._base import PerWeight
from incr_core.testing import check_strategy
from tests.support.strategy_trials import ARGUMENTS, INCREMENTS, MODELS, ZERO


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_obeys_the_laws(name: str) -> None:
    kind = STRATEGIES[name]
    zero = partial(kind, **ZERO[name]) if name in ZERO else None
    make = partial(kind, **ARGUMENTS.get(name, {}))
    check_strategy(make, zero=zero, model=MODELS.get(name), increments=INCREMENTS.get(name))


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["reservoir", "balanced", "herding", "window", "prototypes"])
def test_replay_obeys_the_laws_with_a_full_memory(memory: str) -> None:
    check_strategy(partial(Replay, capacity=20, memory=memory))


# Strategies that break a law each, and what the check says of them.


class Hidden(Strategy):
    """Weighs the loss by a number that nobody saves."""

    steps = 0

    def loss(self, ctx: Context, batch: Batch, output: Tensor) -> dict[str, Tensor]:
        self.steps += 1
        return {"hidden": 0.01 * self.steps * output.square().mean()}


class Loud(Strategy):
    """Draws from the generator that everyone draws from, and hides it from `with` by doing so when it is made."""

    def __init__(self) -> None:
        super().__init__()
        torch.rand(1)


class Vandal(Strategy):
    """Writes into the rows it is given."""

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        batch.targets.zero_()
        return batch


class Growing(Strategy):
    """Keeps a buffer for every increment."""

    def end(self, ctx: Context, labelled: Batch) -> None:
        self.register_buffer(f"day{ctx.increment}", torch.zeros(1))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for key in state_dict:
            if key.startswith(prefix):
                self.register_buffer(key.removeprefix(prefix), torch.zeros(1))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Weak(Strategy):
    """Pulls even with a strength of 0."""

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength

    def after_backward(self, ctx: Context) -> None:
        weights, gradients, _ = ctx.weights_and_gradients()
        torch._foreach_add_(gradients, weights, alpha=1e-6 + self.strength)


class Misspelt(Strategy):
    """Shares what it does not have."""

    traits = Traits(shared={"fischer": "mean"})

    def __init__(self) -> None:
        super().__init__()
        self.fisher = PerWeight()

    def attach(self, ctx: Context) -> None:
        self.fisher.allocate(ctx)


class Quiet(Strategy):
    """Shrinks the weights when an increment ends, and tells nobody."""

    def end(self, ctx: Context, labelled: Batch) -> None:
        with torch.no_grad():
            ctx.parameters[0].mul_(0.9)


class Greedy(Strategy):
    """Its memory grows beyond its capacity."""

    class Hoard(Reservoir):
        def insert(self, columns: dict[str, Tensor], generator: torch.Generator) -> None:
            super().insert(columns, generator)
            self.size = self.seen

    def __init__(self) -> None:
        super().__init__()
        self.memory = self.Hoard(20)

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        self.memory.insert(columns_of(batch), ctx.generator)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Hidden, "Hidden breaks the law of resume: .* 3 of 10 steps into increment 0, .* learns another model"),
        (Loud, "Loud breaks the law of tidiness: it draws from torch's global generator; use ctx.generator"),
        (Vandal, "Vandal breaks the law of tidiness: it changes the rows of increment 0"),
        (Growing, "Growing breaks the law of state: .* 0.day1, 0.day10, .* change"),
        (Misspelt, "Misspelt breaks the law of merge: its trait `shared` names 'fischer', which is not"),
        (
            Quiet,
            r"Quiet breaks the law of merge: `end` changes model.layers.0.weight, and .*; declare .*\(remakes=True\)",
        ),
        (Greedy, "Greedy breaks the law of memory: 0.memory holds 76 rows of at most 20"),
    ],
)
def test_a_broken_law_is_told(broken: Callable[[], Strategy], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_strategy(broken)


def test_zero_that_is_not_none_is_told() -> None:
    with pytest.raises(AssertionError, match=r"Weak breaks the law of zero strength: Weak\(strength=0.0\) learns"):
        check_strategy(Weak, zero=partial(Weak, strength=0.0))
