"""Learning without forgetting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from incr_core.arguments import not_negative, positive
from incr_core.batch import Batch
from incr_core.distillation import divergence
from incr_core.strategy import Context, Strategy
from incr_core.teacher import Teacher

__all__ = ["LwF"]


class LwF(Strategy):
    """Keep answering new rows as the model did when the increment began.

        loss += strength * divergence(output, teacher's output)       see `distillation.divergence`
        at the beginning of an increment but the first: teacher <- w

    Li & Hoiem 2016, "Learning without forgetting", equation 2. It remembers no rows; behind a replay strategy it also
    distils the rows replayed.

    strength: weight of the term, 0 turns it off. temperature: how soft the answers are made.

    >>> LwF(strength=1.0).extra_repr()
    'strength=1.0, temperature=2.0'
    """

    rowwise: ClassVar[bool] = False

    def __init__(self, strength: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__()
        self.strength = not_negative("lwf.strength", strength)
        self.temperature = positive("lwf.temperature", temperature)
        self._increments = 0
        self.teacher = Teacher()
        self._taught: Tensor | None = None

    def attach(self, ctx: Context) -> None:
        """Make room for the teacher."""
        self.teacher.allocate(ctx)

    def begin(self, ctx: Context) -> None:
        """The model as it is becomes the teacher, once it has learned anything."""
        if self.strength > 0 and self._increments > 0:
            self.teacher.capture(ctx)

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        """Ask the teacher about the rows so far."""
        if self.strength > 0 and self._increments > 0:
            self._taught = self.teacher(ctx, batch.inputs)
        return batch

    def loss(self, ctx: Context, batch: Batch, output: Tensor) -> Mapping[str, Tensor]:
        """The divergence from the teacher."""
        if self._taught is None:
            return {}
        student = output[: len(self._taught)]
        return {"lwf": self.strength * divergence(ctx.objective, student, self._taught, self.temperature)}

    def end(self, ctx: Context, labelled: Batch) -> None:
        """Something was learned."""
        self._increments += len(labelled) > 0

    def get_extra_state(self) -> dict[str, int]:
        """How many increments it has seen."""
        return {"increments": self._increments}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take it back."""
        self._increments = state["increments"]
