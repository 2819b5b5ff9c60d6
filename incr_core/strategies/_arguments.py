"""Argument checks of strategies: those of `_util`, raising StrategyError."""

from __future__ import annotations

from functools import partial

from incr_core import _util
from incr_core.errors import StrategyError
from incr_core.objectives import Blend, Multiclass, Objective

__all__ = ["at_least_one", "fraction", "not_negative", "one_of", "positive", "require_classes"]

at_least_one = partial(_util.at_least_one, error=StrategyError)
fraction = partial(_util.fraction, error=StrategyError)
not_negative = partial(_util.not_negative, error=StrategyError)
one_of = partial(_util.one_of, error=StrategyError)
positive = partial(_util.positive, error=StrategyError)


def require_classes(strategy: str, objective: Objective, remedy: str) -> None:
    """StrategyError unless one network answers with logits of classes. remedy: for objectives without classes."""
    if not isinstance(objective, Multiclass):
        if isinstance(objective, Blend):
            remedy = 'it is of one network, and experts are several: set model.kind = "mlp"'
        raise StrategyError(f"{strategy}: expected the objective Multiclass, got {type(objective).__name__}; {remedy}")
