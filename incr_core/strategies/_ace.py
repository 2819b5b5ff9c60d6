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
    """Learn new rows only against the classes beside them, so that they do not push old classes away.

        loss = mean over new rows of -log softmax(output - margin * absent)[y]
             + the mean loss of remembered rows

        absent_c = 1 for classes seen before and not among the batch's new rows, 0 for the others

    Caccia et al. 2022, "New insights on reducing abrupt representation change in online continual learning" (ER-ACE),
    equation 4, is margin = infinity: absent classes are left out. With a finite margin new rows are separated
    from old classes once their outputs come near. It needs remembered rows, or nothing separates old classes from new
    ones: ER-ACE is `[ACE(), Replay(capacity=500)]`, in any order.

    margin: how much, in nats, the outputs of absent classes are lowered; 0 turns it off.

    >>> ACE(margin=4.0)
    ACE(margin=4.0)
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
        """With a margin of 0."""
        return self.margin == 0

    def attach(self, ctx: Context) -> None:
        """Check that there are classes."""
        require_classes("ace", ctx.objective, "use replay without it")
        self.register_buffer("seen", torch.zeros(ctx.objective.outputs, dtype=torch.int64))

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        """Take the new rows out of the main loss; those appended, before or after, stay in it."""
        assert ctx.new is not None, "the learner's step sets it"
        self._new, self._weights = len(ctx.new), ctx.new.weights
        device = batch.targets.device
        weights = torch.ones(len(batch), device=device) if batch.weights is None else batch.weights.clone()
        weights[: self._new] = 0.0
        return replace(batch, weights=weights)

    def loss(self, ctx: Context, batch: Batch, output: Tensor) -> Mapping[str, Tensor]:
        """The cross-entropy of the new rows, with the old classes that are not among them left out."""
        targets = batch.targets[: self._new]
        here = torch.zeros_like(self.seen).index_fill_(0, targets, 1)
        lowered = torch.zeros_like(output[0]).masked_fill_(self.seen > here, self.margin)
        self.seen = torch.maximum(self.seen, here)
        logits = output[: self._new] - lowered
        return {"ace": ctx.objective(logits, targets, self._weights)}
