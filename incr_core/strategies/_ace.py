"""Asymmetric cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.errors import StrategyError
from incr_core.strategies._arguments import require_classes
from incr_core.strategies._base import Context, Strategy
from incr_core.strategies._traits import Traits

__all__ = ["ACE"]


class ACE(Strategy):
    """Learn new rows only against the classes of their batch, so that they do not push old classes away.

        loss = mean over new rows of -log softmax(output - margin * absent)[y]
             + the mean loss of remembered rows

        absent_c = 1 for classes seen before and not among the batch's new rows, 0 for the others

    With a margin of infinity absent classes are left out, which is ER-ACE. With a finite margin new rows are separated
    from old classes once their outputs come close. Nothing separates old classes from new ones without remembered rows:
    ER-ACE is `[ACE(), Replay(capacity=500)]`, in any order.

    Args:
        margin: Amount, in nats, by which the outputs of absent classes are lowered. 0 turns the strategy off.

    Example:
        >>> ACE(margin=4.0)
        ACE(margin=4.0)

    Reference:
        Caccia et al. 2022, "New insights on reducing abrupt representation change in online continual learning"
        (ER-ACE), equation 4.
    """

    traits = Traits(rowwise=False, sets_aside=True, shared={"seen": "max"})

    seen: Tensor

    def __init__(self, margin: float = math.inf) -> None:
        super().__init__()
        if not margin >= 0:
            raise StrategyError(f"ace.margin: expected 0 or more, got {margin}; 0 turns it off")
        self.margin = margin
        self._new = 0
        self._weights: Tensor | None = None

    @property
    def off(self) -> bool:
        """Whether the margin is 0."""
        return self.margin == 0

    def attach(self, ctx: Context) -> None:
        """Check that the objective has classes."""
        require_classes("ace", ctx.objective, "use replay without it")
        self.register_buffer("seen", torch.zeros(ctx.objective.outputs, dtype=torch.int64))

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        """Exclude the new rows from the main loss; rows appended by other strategies stay in it."""
        assert ctx.new is not None, "the learner's step sets it"
        self._new, self._weights = len(ctx.new), ctx.new.weights
        device = batch.targets.device
        weights = torch.ones(len(batch), device=device) if batch.weights is None else batch.weights.clone()
        weights[: self._new] = 0.0
        return replace(batch, weights=weights)

    def loss(self, ctx: Context, batch: Batch, output: Tensor) -> Mapping[str, Tensor]:
        """Return the cross-entropy of the new rows, with absent old classes lowered by the margin."""
        targets = batch.targets[: self._new]
        here = torch.zeros_like(self.seen).index_fill_(0, targets, 1)
        lowered = torch.zeros_like(output[0]).masked_fill_(self.seen > here, self.margin)
        self.seen = torch.maximum(self.seen, here)
        logits = output[: self._new] - lowered
        return {"ace": ctx.objective(logits, targets, self._weights)}
