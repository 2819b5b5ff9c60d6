"""Synaptic intelligence."""

from __future__ import annotations

import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.numerics import as_reals, local
from incr_core.strategies._arguments import not_negative, positive
from incr_core.strategies._base import Context, PerWeight, Strategy
from incr_core.strategies._traits import Traits
from incr_core.strategies.mechanisms import QuadraticPenalty

__all__ = ["SI"]


class SI(Strategy):
    """Penalise changes of weights that contributed most to the decrease of the loss.

        every step:            p_j <- p_j - g_j * (w_j after the step - w_j before it)
        end of an increment:   F_j <- F_j + max(0, p_j) / ((w_j - a_j)^2 + damping),  a <- w,  p <- 0
        loss += strength * sum_j F_j (w_j - a_j)^2        gradient: see `QuadraticPenalty`, k_j = 2 * strength * F_j

    g in the path integral p is the gradient of the loss, without this penalty and without other strategies' edits.

    Args:
        strength: Weight of the penalty. 0 turns the strategy off.
        damping: Keeps F finite for weights that barely moved, in squared units of weights.

    Example:
        >>> SI(strength=0.5).extra_repr()
        'strength=0.5, damping=0.1'

    Reference:
        Zenke et al. 2017, "Continual learning through synaptic intelligence", section 3, equations 3 to 5.
    """

    traits = Traits(
        shared={"importance": "mean", "anchor": "mean"},
        # Gradients are read before other strategies edit them, weights after the last strategy has moved them.
        phases={"after_backward": "record", "after_step": "measure", "end": "measure"},
    )

    def __init__(self, strength: float = 1.0, damping: float = 0.1) -> None:
        super().__init__()
        self.strength = not_negative("si.strength", strength)
        self.damping = positive("si.damping", damping)
        self.importance = PerWeight()
        self.anchor = PerWeight()
        self._penalty = QuadraticPenalty()
        self.path = PerWeight()
        self._before: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self._index: list[int] = []

    @torch.no_grad()
    def attach(self, ctx: Context) -> None:
        """Start the first path at the initial weights."""
        for state in (self.importance, self.anchor, self.path):
            state.allocate(ctx)
        torch._foreach_copy_(self.anchor.tensors(), [as_reals(local(weight)) for weight in ctx.parameters])

    def after_backward(self, ctx: Context) -> None:
        """Copy gradients and weights for the path (views would change with them), then add the penalty's gradient."""
        if self.strength == 0:
            return
        weights, gradients, self._index = ctx.weights_and_gradients()
        self._before = [weight.clone() for weight in weights]
        self._gradients = [gradient.clone() for gradient in gradients]
        index = self._index
        self._penalty(ctx, self.anchor.tensors(index), self.importance.tensors(index), 2 * self.strength)

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """Add gradient times movement to the path."""
        if self.strength == 0:
            return
        weights = [as_reals(local(ctx.parameters[place])) for place in self._index]
        torch._foreach_sub_(self._before, weights)  # minus the movement
        torch._foreach_addcmul_(self.path.tensors(self._index), self._gradients, self._before)

    @torch.no_grad()
    def end(self, ctx: Context, labelled: Batch) -> None:
        """Convert the path to importance, and start the next path here."""
        if self.strength == 0 or len(labelled) == 0:
            return
        for weight, importance, anchor, path in zip(
            ctx.parameters, self.importance.tensors(), self.anchor.tensors(), self.path.tensors(), strict=True
        ):
            now = as_reals(local(weight))
            importance += path.clamp(min=0) / ((now - anchor).square() + self.damping)
            anchor.copy_(now)
            path.zero_()
