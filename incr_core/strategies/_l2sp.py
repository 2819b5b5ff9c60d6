"""L2-SP: an L2 penalty towards the starting point."""

from __future__ import annotations

import torch

from incr_core.numerics import as_reals, local
from incr_core.strategies._arguments import not_negative
from incr_core.strategies._base import Context, PerWeight, Strategy
from incr_core.strategies._traits import Traits

__all__ = ["L2SP"]


class L2SP(Strategy):
    """Penalise the distance from the initial weights, such as those of a pretrained model.

        loss += strength / 2 * sum_j (w_j - a_j)^2        as a gradient: g_j += strength * (w_j - a_j)

    a are the weights with which the learner was created; they never change.

    Args:
        strength: Weight of the penalty. 0 turns the strategy off.

    Example:
        >>> L2SP(strength=0.1).extra_repr()
        'strength=0.1'

    Reference:
        Li et al. 2018, "Explicit inductive bias for transfer learning with convolutional networks", equation 2.
    """

    traits = Traits(stacks=True)

    def __init__(self, strength: float = 0.01) -> None:
        super().__init__()
        self.strength = not_negative("l2sp.strength", strength)
        self.anchor = PerWeight()

    @torch.no_grad()
    def attach(self, ctx: Context) -> None:
        """Copy the initial weights."""
        self.anchor.allocate(ctx)
        torch._foreach_copy_(self.anchor.tensors(), [as_reals(local(weight)) for weight in ctx.parameters])

    def after_backward(self, ctx: Context) -> None:
        """Add the penalty's gradient, without a graph."""
        if self.strength == 0:
            return
        weights, gradients, index = ctx.weights_and_gradients()
        torch._foreach_add_(gradients, torch._foreach_sub(weights, self.anchor.tensors(index)), alpha=self.strength)
