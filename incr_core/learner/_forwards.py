"""What the forwards of a model need around them: its mode, its way of being called, and random numbers of its own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from incr_core.models import Calls
from incr_core.numerics import draws_nothing
from incr_core.objectives import Objective

__all__ = ["Forwards"]


class Forwards:
    """Prepare a model to learn or to predict, and leave out what makes no difference to it.

    Swapping the random state, or a model's mode, takes as long as the forward of a small model.

    random_state: a context in which torch's global generators are the learner's own. strategies: whether there are any.
    pairs_rows: whether the model looks at several rows together, as BatchNorm does.

    learning, predicting: contexts for forwards of either kind. chance: whether a forward may draw random numbers;
    draws_when_asked: even one that predicts.

    >>> from incr_core.objectives import Regression
    >>> model = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    >>> forwards = Forwards(model, Regression(), nullcontext(), strategies=False, pairs_rows=False)
    >>> forwards.set_mode(training=False)
    >>> forwards.chance, model.training
    (True, False)
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        random_state: AbstractContextManager[Any],
        *,
        strategies: bool,
        pairs_rows: bool,
    ) -> None:
        self._model = model
        self._strategies = strategies
        self.chance = not draws_nothing(model, objective)
        self.learning: AbstractContextManager[Any] = random_state if self.chance or strategies else nullcontext()
        self.draws_when_asked = self.chance and not draws_nothing(model, objective, training=False)
        self.predicting: AbstractContextManager[Any] = random_state if self.draws_when_asked else nullcontext()
        # A model that certainly draws nothing certainly maps a tensor to a tensor, too.
        self._calls = None if draws_nothing(model) else Calls(model)
        self._has_modes = pairs_rows or self.chance

    def set_mode(self, training: bool) -> None:
        """Have the model learn, or predict, where that makes a difference to it."""
        if self._calls is not None and self._calls.settled(training, alone=not self._strategies):
            self._calls = None
        if self._has_modes:
            self._model.train(training)

    def stay(self, training: bool) -> None:
        """Put the model in a mode for good: from now on `set_mode` has nothing to do."""
        self._model.train(training)
        self._has_modes = False
