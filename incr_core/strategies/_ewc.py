"""Elastic weight consolidation."""

from __future__ import annotations

import torch

from incr_core.batch import Batch
from incr_core.models import one_way
from incr_core.numerics import as_reals, like, local
from incr_core.strategies._arguments import at_least_one, fraction, not_negative
from incr_core.strategies._base import Context, PerWeight, Strategy
from incr_core.strategies._traits import Traits
from incr_core.strategies.mechanisms import QuadraticPenalty, fisher_diagonal

__all__ = ["EWC"]


class EWC(Strategy):
    """Penalise changes of weights that the predictions depend on, by their Fisher information.

        loss += strength / 2 * sum_j F_j (w_j - a_j)^2        gradient: see `QuadraticPenalty`, k_j = strength * F_j
        at the end of an increment: F <- decay * F + F_new,  and
            online:   a <- w
            else:     a <- (decay * F * a + F_new * w) / (decay * F + F_new)

    F_new is the diagonal Fisher information of the increment's rows, and w are the weights after the increment. The
    online form keeps one running F and only the last anchor, where the new loss and all earlier penalties are already
    in balance. The other form keeps an anchor for each consolidation: the quadratics sum to one around the F-weighted
    mean of their anchors, so it needs no more memory. It pulls weights that were learned under a penalty back towards
    older anchors.

    Args:
        strength: Weight of the penalty. 0 turns the strategy off.
        decay: Factor on the past Fisher information at each consolidation, in [0, 1].
        samples: Number of rows of an increment for estimating the Fisher information.
        every: Increments between consolidations.
        online: Whether to use the online form.

    The buffer `anchor` holds a, or F * a in the form that is not online; F * a, like F, merges exactly between
    participants.

    Example:
        >>> EWC(strength=200.0)
        EWC(
          strength=200.0, decay=1.0, samples=1024, every=1, online=True
          (fisher): PerWeight()
          (anchor): PerWeight()
        )

    Reference:
        Kirkpatrick et al. 2017, PNAS 114 (one anchor per consolidation); Schwarz et al. 2018, "Progress & Compress",
        section 3 (online); Huszar 2018, PNAS 115 (the pull towards older anchors).
    """

    traits = Traits(shared={"fisher": "mean", "anchor": "mean"}, phases={"end": "measure"})

    def __init__(
        self, strength: float = 100.0, decay: float = 1.0, samples: int = 1024, every: int = 1, online: bool = True
    ) -> None:
        super().__init__()
        self.strength = not_negative("ewc.strength", strength)
        self.decay = fraction("ewc.decay", decay)
        self.samples = at_least_one("ewc.samples", samples)
        self.every = at_least_one("ewc.every", every)
        self.online = online
        self.fisher = PerWeight()
        self.anchor = PerWeight()
        self._penalty = QuadraticPenalty()

    def attach(self, ctx: Context) -> None:
        """Allocate F and a."""
        one_way(ctx.model, "ewc")
        self.fisher.allocate(ctx)
        self.anchor.allocate(ctx)

    def after_backward(self, ctx: Context) -> None:
        """Add the penalty's gradient, without a graph."""
        if self.strength == 0:
            return
        _, _, index = ctx.weights_and_gradients()
        fisher, anchors = self.fisher.tensors(index), self.anchor.tensors(index)
        if not self.online:
            divisors = [torch.clamp(value, min=torch.finfo(value.dtype).tiny) for value in fisher]
            anchors = list(torch._foreach_div(anchors, divisors))
        self._penalty(ctx, anchors, fisher, self.strength)

    @torch.no_grad()
    def end(self, ctx: Context, labelled: Batch) -> None:
        """Estimate the Fisher information of the learned rows, and move the anchor."""
        if self.strength == 0 or len(labelled) == 0 or (ctx.increment + 1) % self.every:
            return
        picked = torch.randperm(len(labelled), generator=ctx.generator, device=ctx.generator.device)[: self.samples]
        measured = fisher_diagonal(ctx.model, ctx.objective, labelled.take(picked), ctx.generator)
        for fisher, anchor, name, weight in zip(
            self.fisher.tensors(), self.anchor.tensors(), ctx.names, ctx.parameters, strict=True
        ):
            new = like(measured[name], weight)
            fisher.mul_(self.decay).add_(new)
            if self.online:
                anchor.copy_(as_reals(local(weight)))
            else:
                anchor.mul_(self.decay).addcmul_(new, as_reals(local(weight)))
