"""L2 towards the starting point."""

from __future__ import annotations

import torch

from incr_core.numerics import as_reals, local
from incr_core.strategies._arguments import not_negative
from incr_core.strategies._base import Context, PerWeight, Strategy
from incr_core.strategies._traits import Traits

__all__ = ["L2SP"]


class L2SP(Strategy):
    """Pull every weight towards where the learner started, a pretrained model for instance.

        loss += strength / 2 * sum_j (w_j - a_j)^2        as a gradient: g_j += strength * (w_j - a_j)

    a are the weights the learner was made with; they never move. Li et al. 2018, "Explicit inductive bias for transfer
    learning with convolutional networks", equation 2.

    strength: weight of the penalty, 0 turns it off.

    >>> L2SP(strength=0.1).extra_repr()
    'strength=0.1'
    """

    traits = Traits(stacks=True)

    def __init__(self, strength: float = 0.01) -> None:
        super().__init__()
        self.strength = not_negative("l2sp.strength", strength)
        self.anchor = PerWeight()

    @torch.no_grad()
    def attach(self, ctx: Context) -> None:
        """Keep a copy of the starting point."""
        self.anchor.allocate(ctx)
        torch._foreach_copy_(self.anchor.tensors(), [as_reals(local(weight)) for weight in ctx.parameters])

    def after_backward(self, ctx: Context) -> None:
        """Add the penalty's gradient, without a graph."""
        if self.strength == 0:
            return
        weights, gradients, index = ctx.weights_and_gradients()
        torch._foreach_add_(gradients, torch._foreach_sub(weights, self.anchor.tensors(index)), alpha=self.strength)
