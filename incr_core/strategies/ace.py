"""Asymmetric cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from incr_core.batch import Batch
from incr_core.errors import StrategyError
from incr_core.objective import Multiclass
from incr_core.strategy import Context, Strategy

__all__ = ["ACE"]


class ACE(Strategy):
    """Learn new rows only against the classes beside them, so that they do not push old classes away.

        loss = mean over new rows of -log softmax over (classes in the batch, classes never seen) (output)[y]
             + the mean loss of remembered rows, over all classes

    Caccia et al. 2022, "New insights on reducing abrupt representation change in online continual learning" (ER-ACE),
    equation 4. It needs remembered rows, or old classes are never told from new ones: put it first, and replay after
    it, so that ER-ACE is `[ACE(), Replay(capacity=500)]`.

    on: False turns it off.

    >>> ACE()
    ACE(on=True)
    """

    rowwise: ClassVar[bool] = False
    shared: ClassVar[dict[str, str]] = {"seen": "max"}

    seen: Tensor

    def __init__(self, on: bool = True) -> None:
        super().__init__()
        self.on = on
        self._new = 0

    def attach(self, ctx: Context) -> None:
        """Check that there are classes."""
        if not isinstance(ctx.objective, Multiclass):
            raise StrategyError(
                f"ace: expected the objective Multiclass, got {type(ctx.objective).__name__}; use replay without it"
            )
        self.register_buffer("seen", torch.zeros(ctx.objective.outputs, dtype=torch.int64))

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        """Take the new rows out of the main loss; those appended later stay in it."""
        if not self.on:
            return batch
        self._new = len(batch)
        self._weights = batch.weights
        return replace(batch, weights=torch.zeros(len(batch), device=batch.targets.device))

    def loss(self, ctx: Context, batch: Batch, output: Tensor) -> Mapping[str, Tensor]:
        """The cross-entropy of the new rows, with the old classes that are not among them left out."""
        if not self.on:
            return {}
        targets = batch.targets[: self._new]
        here = torch.zeros_like(self.seen).index_fill_(0, targets, 1)
        absent = (self.seen > here)[None]
        self.seen = torch.maximum(self.seen, here)
        logits = output[: self._new].masked_fill(absent, float("-inf"))
        if self._weights is None:
            return {"ace": F.cross_entropy(logits, targets)}
        return {"ace": ctx.objective(logits, targets, self._weights)}
