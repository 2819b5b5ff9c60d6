"""The hooks of a list of strategies, found once."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import nn

from incr_core.errors import StrategyError
from incr_core.memory import Memory
from incr_core.strategy import Strategy

__all__ = ["Hooks"]


class Hooks:
    """For each hook, the methods of the strategies that override it, in order: one that none does costs a step nothing.

    after_rehearsal: those of `after_step` that belong to no memory.
    keeps: about the share of rows that all who weigh rows leave.

    Raises StrategyError where two strategies take new rows out of the loss, or one does and another weighs them in it.

    >>> from incr_core.strategies import EWC, Replay
    >>> hooks = Hooks([Replay(), EWC()])
    >>> len(hooks.augment), len(hooks.end), len(hooks.weigh)
    (1, 1, 0)
    """

    def __init__(self, strategies: Sequence[Strategy]) -> None:
        def overridden(hook: str) -> list[Any]:
            return [
                getattr(strategy, hook)
                for strategy in strategies
                if getattr(type(strategy), hook) is not getattr(Strategy, hook)
            ]

        self.begin = overridden("begin")
        self.augment = overridden("augment")
        self.weigh = overridden("weigh")
        self.loss = overridden("loss")
        self.after_backward = overridden("after_backward")
        self.after_step = overridden("after_step")
        self.after_rehearsal = [hook for hook in self.after_step if not _remembers(hook.__self__)]
        self.end = overridden("end")
        self.adopted = overridden("adopted")
        self.keeps = prod(strategy.keeps for strategy in strategies)
        aside = [type(strategy).__name__ for strategy in strategies if strategy.sets_aside]
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


def _remembers(strategy: nn.Module) -> bool:
    return any(isinstance(part, Memory) for part in strategy.modules())
