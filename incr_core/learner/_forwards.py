"""The context of a model's forwards: its mode, its calling convention, and separate random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn

from incr_core.models import Asking, Calls, ExtraState, keeps_nothing
from incr_core.models.adapt import ActivationRange
from incr_core.numerics import draws_nothing
from incr_core.objectives import Objective

__all__ = ["Forwards"]


class Forwards:
    """Prepares a model to learn or to predict, and skips preparations that have no effect on it.

    Swapping the random state, or a model's mode, takes as long as the forward of a small model.

    Args:
        model: The model.
        objective: Its objective.
        random_state: Context in which torch's global generators are the learner's own.
        extra: Non-tensor state of the modules.
        strategies: Whether there are any strategies.
        pairs_rows: Whether the model combines several rows, as BatchNorm does.
        sharded: Whether it is one of several shards.

    Attributes:
        learning: Context for forwards that learn.
        chance: Whether a forward may draw random numbers.
        one_at_a_time: Whether predicting forwards must not overlap, because they draw random numbers or write to the
            model.

    Example:
        >>> from incr_core.objectives import Regression
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
        >>> flags = {"strategies": False, "pairs_rows": False, "sharded": False}
        >>> forwards = Forwards(model, Regression(), nullcontext(), ExtraState(model=model), **flags)
        >>> forwards.set_mode(training=False)
        >>> forwards.chance, model.training
        (True, False)
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        random_state: AbstractContextManager[Any],
        extra: ExtraState,
        *,
        strategies: bool,
        pairs_rows: bool,
        sharded: bool,
    ) -> None:
        self._model = model
        self._strategies = strategies
        self.chance = not draws_nothing(model, objective)
        self.learning: AbstractContextManager[Any] = random_state if self.chance or strategies else nullcontext()
        draws = self.chance and not draws_nothing(model, objective, training=False)
        self._drawing: AbstractContextManager[Any] = random_state if draws else nullcontext()
        self._asking = None if keeps_nothing(model) else Asking(model, extra, parameters=not sharded)
        self.one_at_a_time = draws or self._asking is not None
        # A model that certainly draws nothing consists of known layers, which map a tensor to a tensor.
        self._calls = None if draws_nothing(model) else Calls(model)
        ranges = any(isinstance(part, ActivationRange) for part in model.modules())
        self._has_modes = pairs_rows or self.chance or ranges

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Return the context of forwards that predict, in eval mode."""
        with self._drawing, self._asking or nullcontext():
            yield

    def set_mode(self, training: bool) -> None:
        """Set training or eval mode, if the model's output depends on it."""
        if self._calls is not None and self._calls.settled(training, alone=not self._strategies):
            self._calls = None
        if self._has_modes:
            self._model.train(training)

    def stay(self, training: bool) -> None:
        """Set a mode permanently; from now on `set_mode` does nothing."""
        self._model.train(training)
        self._has_modes = False
