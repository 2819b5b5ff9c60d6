"""The overridden hooks of a list of strategies."""

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
    """The strategies' methods that override each hook, resolved once; a hook without overrides costs nothing per step.

    Methods are ordered by phase (`Traits.phases`), and within a phase by the order of the list.

    Args:
        strategies: The learner's strategies.

    Attributes:
        after_rehearsal: The `after_step` methods of strategies without a memory.
        keeps: Approximate share of rows that remain after all strategies have weighed them.

    Raises:
        StrategyError: A strategy that must be alone has others beside it, two strategies take new rows out of the loss,
            or one takes them out and another weighs them in it.

    Example:
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
                    f"{strategy.traits.alone}; remove one of them"
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
                f"strategy: {' and '.join(aside)} each take new rows out of the objective's loss; "
                "keep one of them and remove the others"
            )
        if self.weigh and aside:
            weighs = [type(hook.__self__).__name__ for hook in self.weigh]
            raise StrategyError(
                f"strategy: {', '.join(weighs)} weighs new rows in the objective's loss, and {', '.join(aside)} takes "
                "them out of it; remove one of them"
            )


def derived(
    strategies: Sequence[Strategy], weights: Mapping[str, Tensor], shared: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights and the shared state that the strategies derive from the merged shared state.

    Args:
        strategies: The learner's strategies.
        weights: The merged weights, by name.
        shared: Merged shared state, by place of the strategy in the list and name, such as "0.sums.count".

    Example:
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
