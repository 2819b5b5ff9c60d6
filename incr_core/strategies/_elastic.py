"""Elastic net towards the anchor, including L1 alone."""

from __future__ import annotations

import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.numerics import as_reals, local
from incr_core.strategies._arguments import not_negative
from incr_core.strategies._base import Context, PerWeight, Strategy

__all__ = ["ElasticNet"]


class ElasticNet(Strategy):
    """Penalise the change of weights within an increment by an elastic net, so that few weights move, and only a
    little.

        loss += l1 * |w - a|_1 + l2 / 2 * |w - a|^2
        l2 as a gradient:            g_j += l2 * (w_j - a_j)
        l1 as a proximal step:       d_j = w_j - a_j after the step;  w_j <- a_j + sign(d_j) max(0, |d_j| - lr * l1)

    a are the weights at the start of the increment, and lr is the learning rate of the weight's group. The proximal
    step gives exact zeros, where a subgradient would oscillate around them. A weight without a gradient takes no step,
    and no proximal step either.

    Args:
        l1: Weight of the L1 penalty.
        l2: Weight of the L2 penalty; 0 gives the lasso. If both are 0, the strategy is off.

    Example:
        >>> ElasticNet(l1=1e-4).extra_repr()
        'l1=0.0001, l2=0.0'

    Reference:
        Zou & Hastie 2005 (the elastic net); Parikh & Boyd 2014, "Proximal algorithms", section 6.5.
    """

    def __init__(self, l1: float = 1e-4, l2: float = 0.0) -> None:
        super().__init__()
        self.l1 = not_negative("elastic.l1", l1)
        self.l2 = not_negative("elastic.l2", l2)
        self.anchor = PerWeight()
        self._index: list[int] = []

    def attach(self, ctx: Context) -> None:
        """Allocate the anchor."""
        self.anchor.allocate(ctx)

    @torch.no_grad()
    def begin(self, ctx: Context) -> None:
        """Copy the weights at the start of the increment."""
        if self.l1 > 0 or self.l2 > 0:
            torch._foreach_copy_(self.anchor.tensors(), [as_reals(local(weight)) for weight in ctx.parameters])

    def after_backward(self, ctx: Context) -> None:
        """Record which weights the step moves, and add the gradient of the L2 part."""
        if self.l1 == 0 and self.l2 == 0:
            return
        weights, gradients, self._index = ctx.weights_and_gradients()
        if self.l2 > 0:
            anchors = self.anchor.tensors(self._index)
            torch._foreach_add_(gradients, torch._foreach_sub(weights, anchors), alpha=self.l2)

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """Take the proximal step of the L1 part: weights that moved less than lr * l1 return to the anchor."""
        if self.l1 == 0:
            return
        weights = [as_reals(local(ctx.parameters[place])) for place in self._index]
        anchors = self.anchor.tensors(self._index)
        lr = ctx.rates(self._index)
        moved = torch._foreach_sub(weights, anchors)
        if isinstance(lr, list):
            above, below = [rate * self.l1 for rate in lr], [-rate * self.l1 for rate in lr]
            kept = torch._foreach_clamp_max(torch._foreach_clamp_min(moved, below), above)
        else:
            kept = torch._foreach_clamp_max(torch._foreach_clamp_min(moved, -lr * self.l1), lr * self.l1)
        torch._foreach_sub_(moved, kept)
        torch._foreach_copy_(weights, torch._foreach_add(anchors, moved))
