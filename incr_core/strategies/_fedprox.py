"""The proximal term of FedProx."""

from __future__ import annotations

import torch

from incr_core.numerics import as_reals, local
from incr_core.strategies._arguments import not_negative
from incr_core.strategies._base import Context, PerWeight, Strategy
from incr_core.strategies._traits import Traits

__all__ = ["FedProx"]


class FedProx(Strategy):
    """Keep a participant's weights close to the anchor from which all participants started the round.

        loss += strength / 2 * |w - a|^2        as a gradient: g_j += strength * (w_j - a_j)
        at the beginning of an increment, and whenever an anchor is adopted: a <- w

    mu in the paper is `strength`. If an increment has several rounds, each has its own anchor. Without an exchange the
    anchor is the weights at the start of the increment.

    Args:
        strength: Weight of the penalty. 0 turns the strategy off.

    Example:
        >>> FedProx(strength=0.01).extra_repr()
        'strength=0.01'

    Reference:
        Li et al. 2020, "Federated optimization in heterogeneous networks", equation 2.
    """

    traits = Traits(stacks=True)

    def __init__(self, strength: float = 0.01) -> None:
        super().__init__()
        self.strength = not_negative("fedprox.strength", strength)
        self.anchor = PerWeight()

    def attach(self, ctx: Context) -> None:
        """Allocate the anchor."""
        self.anchor.allocate(ctx)

    @torch.no_grad()
    def adopted(self, ctx: Context) -> None:
        """Copy the anchor."""
        if self.strength > 0:
            torch._foreach_copy_(self.anchor.tensors(), [as_reals(local(weight)) for weight in ctx.parameters])

    def begin(self, ctx: Context) -> None:
        """Copy the weights at the start of the increment."""
        self.adopted(ctx)

    def after_backward(self, ctx: Context) -> None:
        """Add the penalty's gradient, without a graph."""
        if self.strength == 0:
            return
        weights, gradients, index = ctx.weights_and_gradients()
        torch._foreach_add_(gradients, torch._foreach_sub(weights, self.anchor.tensors(index)), alpha=self.strength)
