"""Feature distillation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from incr_core.batch import Batch
from incr_core.models import Activations
from incr_core.strategies._arguments import not_negative
from incr_core.strategies._base import Context, Strategy
from incr_core.strategies._traits import Traits
from incr_core.strategies.mechanisms import Snapshot

__all__ = ["FeatureDistillation"]


class FeatureDistillation(Strategy):
    """Keep the penultimate activations close to those at the start of the increment.

        loss += strength * mean over rows and activations of (f(x) - teacher's f(x))^2
        at the beginning of an increment but the first: teacher <- w

    f are the penultimate activations, the input of the model's last linear layer, so the head stays free to change. No
    regressor is needed, because teacher and student are the same model. The strategy remembers no rows; listed after a
    replay strategy it also distils the replayed rows.

    Args:
        strength: Weight of the term. 0 turns the strategy off.

    Example:
        >>> FeatureDistillation(strength=1.0).extra_repr()
        'strength=1.0'

    Reference:
        Romero et al. 2015, "FitNets", equation 3; Jung et al. 2016, "Less-forgetting learning", equation 2.
    """

    traits = Traits(rowwise=False, shared={"learned": "max"})

    learned: Tensor

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = not_negative("features.strength", strength)
        self.teacher = Snapshot()
        self._taught: Tensor | None = None

    @property
    def off(self) -> bool:
        """Whether the strength is 0."""
        return self.strength == 0

    def attach(self, ctx: Context) -> None:
        """Allocate the teacher and the flag `learned`, and record the activations of every forward."""
        self._activations = Activations(ctx.model, "features")
        if not self.off:
            self._activations.keep()
        self.teacher.allocate(ctx)
        self.register_buffer("learned", torch.zeros((), dtype=torch.int64))

    def begin(self, ctx: Context) -> None:
        """Capture the current model as the teacher, if any participant has learned rows."""
        if self.learned:
            self.teacher.capture(ctx)

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        """Record the teacher's activations of the rows so far."""
        if self.teacher.captured:
            self.teacher(ctx, batch.inputs)
            self._taught = self._activations.last
        return batch

    def loss(self, ctx: Context, batch: Batch, output: Tensor) -> Mapping[str, Tensor]:
        """Return the squared distance from the teacher's activations."""
        if self._taught is None:
            return {}
        student = self._activations.last[: len(self._taught)]
        return {"features": self.strength * F.mse_loss(student, self._taught)}

    def end(self, ctx: Context, labelled: Batch) -> None:
        """Record that rows were learned."""
        if len(labelled):
            self.learned.fill_(1)
