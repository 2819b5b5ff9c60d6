"""Argument checks of strategies: those of `_util`, raising StrategyError."""

from __future__ import annotations

from functools import partial

from incr_core import _util
from incr_core.errors import StrategyError

__all__ = ["at_least_one", "fraction", "not_negative", "one_of", "positive"]

at_least_one = partial(_util.at_least_one, error=StrategyError)
fraction = partial(_util.fraction, error=StrategyError)
not_negative = partial(_util.not_negative, error=StrategyError)
one_of = partial(_util.one_of, error=StrategyError)
positive = partial(_util.positive, error=StrategyError)
