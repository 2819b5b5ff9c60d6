"""A strategy's own argument that is wrong is a StrategyError, whichever strategy and argument it is."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from incr_core.errors import StrategyError
from incr_core.strategies import STRATEGIES, Pruning, Ridge

MADE: dict[str, Any] = {
    **STRATEGIES,
    "ridge": Ridge,
    "pruning": Pruning,
}  # learner.head and model.adapt
NUMBERS = [
    (name, parameter.name)
    for name, made in MADE.items()
    for parameter in inspect.signature(made).parameters.values()
    if type(parameter.default) in (int, float) and parameter.name != "capacity"  # of its memory
]


@pytest.mark.parametrize(("name", "argument"), NUMBERS)
def test_a_negative_number_is_refused_as_strategies_refuse(name: str, argument: str) -> None:
    made = MADE[name]
    with pytest.raises(StrategyError, match=r": expected .*, got -1"):
        made(**{argument: -1})
