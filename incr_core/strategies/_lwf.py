"""Learning without forgetting."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.objectives import Blend, Multiclass, Objective, distillation_loss
from incr_core.strategies._arguments import not_negative, positive
from incr_core.strategies._base import Context, Strategy
from incr_core.strategies._traits import Traits
from incr_core.strategies.mechanisms import Snapshot

__all__ = ["LwF"]

NEVER = -1e4
"""A log-probability whose exponential is 0 in every dtype, yet finite, so that 0 * NEVER is 0."""


class LwF(Strategy):
    """Keep the outputs for new rows close to those of the model at the start of the increment.

        loss += strength * distillation_loss(output, teacher's output)       see `distillation_loss`
        at the beginning of an increment but the first: teacher <- w

    In multiclass classification the teacher knows the classes of earlier increments, on whichever participant they were
    learned, and gives probability 0 to all others. If the others were left out instead, all old classes could lose to
    new ones at no cost. The strategy remembers no rows; listed after a replay strategy it also distils the replayed
    rows.

    Args:
        strength: Weight of the term. 0 turns the strategy off.
        temperature: Divisor of the logits; a higher value gives softer targets.

    Example:
        >>> LwF(strength=1.0).extra_repr()
        'strength=1.0, temperature=2.0'

    Reference:
        Li & Hoiem 2016, "Learning without forgetting", equation 2.
    """

    traits = Traits(rowwise=False, shared={"learned": "max"})

    learned: Tensor
    taught: Tensor

    def __init__(self, strength: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__()
        self.strength = not_negative("lwf.strength", strength)
        self.temperature = positive("lwf.temperature", temperature)
        self.teacher = Snapshot()
        self._answers: Tensor | None = None

    @property
    def off(self) -> bool:
        """Whether the strength is 0."""
        return self.strength == 0

    def attach(self, ctx: Context) -> None:
        """Allocate the teacher and two masks of outputs: learned so far, and learned before this teacher."""
        self.teacher.allocate(ctx)
        self.register_buffer("learned", torch.zeros(ctx.objective.outputs, dtype=torch.int64))
        self.register_buffer("taught", torch.zeros(ctx.objective.outputs, dtype=torch.int64))

    def begin(self, ctx: Context) -> None:
        """Capture the current model as the teacher, if rows were learned before."""
        if self.learned.any():
            self.teacher.capture(ctx)
            self.taught.copy_(self.learned)

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        """Record the teacher's output for the rows so far."""
        if self.teacher.captured:
            self._answers = self.teacher(ctx, batch.inputs)
        return batch

    def loss(self, ctx: Context, batch: Batch, output: Tensor) -> Mapping[str, Tensor]:
        """Return the divergence from the teacher."""
        if self._answers is None:
            return {}
        student, answers = output[: len(self._answers)], self._answers
        if _has_classes(ctx.objective):
            answers = answers.masked_fill(self.taught == 0, NEVER * self.temperature)
        return {"lwf": self.strength * distillation_loss(ctx.objective, student, answers, self.temperature)}

    def end(self, ctx: Context, labelled: Batch) -> None:
        """Mark the learned outputs: in multiclass classification the classes of the rows, otherwise all."""
        if len(labelled):
            each = ctx.objective.each.outputs if isinstance(ctx.objective, Blend) else ctx.objective.outputs
            of_experts = self.learned.view(-1, each)  # of a single network there is one
            of_experts[:, labelled.targets if _has_classes(ctx.objective) else slice(None)] = 1


def _has_classes(objective: Objective) -> bool:
    return isinstance(objective.each if isinstance(objective, Blend) else objective, Multiclass)
