"""The hooks of a list of strategies, found once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from torch import Tensor, nn

from incr_core.errors import StrategyError
from incr_core.memories import Memory
from incr_core.strategies._base import Strategy

__all__ = ["Hooks", "derived"]


class Hooks:
    """For each hook, the methods of the strategies that override it; a hook that none overrides costs a step nothing.
    They come by phase (`Traits.phases`), and within a phase as the strategies are listed.

    after_rehearsal: those of `after_step` that belong to no memory.
    keeps: about the share of rows that all who weigh rows leave.

    Raises StrategyError for a strategy that declares to be alone beside another, for two that take new rows out of the
    loss, and for one that does beside one that weighs them in it.

    >>> from incr_core.strategies._ewc import EWC
    >>> from incr_core.strategies._replay import Replay
    >>> hooks = Hooks([Replay(), EWC()])
    >>> len(hooks.augment), len(hooks.end), len(hooks.weigh)
    (1, 1, 0)
    """

    def __init__(self, strategies: Sequence[Strategy]) -> None:
        strategies = [strategy for strategy in strategies if not strategy.off]

        def overridden(hook: str) -> list[Any]:
            return [
                getattr(strategy, hook)
                for strategy in sorted(strategies, key=lambda strategy: strategy.traits.place(hook))
                if getattr(type(strategy), hook) is not getattr(Strategy, hook)
            ]

        for strategy in strategies:
            others = [type(other).__name__ for other in strategies if other is not strategy]
            if strategy.traits.alone and others:
                raise StrategyError(
                    f"strategy: expected {type(strategy).__name__} alone, got it beside {' and '.join(others)}: "
                    f"{strategy.traits.alone}; leave one or the other out"
                )

        self.begin = overridden("begin")
        self.augment = overridden("augment")
        self.weigh = overridden("weigh")
        self.loss = overridden("loss")
        self.after_backward = overridden("after_backward")
        self.after_step = overridden("after_step")
        self.after_rehearsal = [hook for hook in self.after_step if not _remembers(hook.__self__)]
        self.end = overridden("end")
        self.adopted = overridden("adopted")
        self.derive = overridden("derive")
        self.keeps = prod(strategy.keeps for strategy in strategies)
        aside = [type(strategy).__name__ for strategy in strategies if strategy.traits.sets_aside]
        if len(aside) > 1:
            raise StrategyError(
                f"strategy: {' and '.join(aside)} each take new rows out of the objective's loss, to learn them in "
                "their own way; leave all but one of them out"
            )
        if self.weigh and aside:
            weighs = [type(hook.__self__).__name__ for hook in self.weigh]
            raise StrategyError(
                f"strategy: {', '.join(weighs)} chooses among new rows by their weight in the objective's loss, and "
                f"{', '.join(aside)} takes them out of it; leave one of them out"
            )


def derived(
    strategies: Sequence[Strategy], weights: Mapping[str, Tensor], shared: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What strategies make of what they share, once it is merged: weights and shared state that are others now.

    shared: by the place of the strategy in the list and a name, "0.sums.count".

    >>> derived([Strategy()], {}, {})
    ({}, {})
    """
    new_weights: dict[str, Tensor] = {}
    new_shared: dict[str, Tensor] = {}
    for place, strategy in enumerate(strategies):
        if type(strategy).derive is Strategy.derive or strategy.off:
            continue
        prefix = f"{place}."
        own = {name.removeprefix(prefix): value for name, value in shared.items() if name.startswith(prefix)}
        changed, others = strategy.derive({**weights, **new_weights}, own)
        new_weights |= changed
        new_shared |= {prefix + name: value for name, value in others.items()}
    return new_weights, new_shared


def _remembers(strategy: nn.Module) -> bool:
    return any(isinstance(part, Memory) for part in strategy.modules())
