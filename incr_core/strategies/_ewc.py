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
    """Penalise moving weights that mattered.

        loss += strength / 2 * sum_j F_j (w_j - a_j)^2        gradient: see `QuadraticPenalty`, k_j = strength * F_j
        at the end of an increment: F <- decay * F + F_new,  and
            online:   a <- w
            else:     a <- (decay * F * a + F_new * w) / (decay * F + F_new)

    F_new is the diagonal Fisher information of the increment's rows and w the weights after them. Online is the
    form of Schwarz et al. 2018 (Progress & Compress, section 3): one running F, and the last anchor, at which what was
    learned and all penalties before are balanced already. Otherwise every consolidation keeps an anchor of its own, as
    in Kirkpatrick et al. 2017 (PNAS 114): quadratics add up to one about the mean of their anchors, weighted by F, so
    it takes no more memory; but it pulls what was learned under a penalty back towards it (Huszar 2018, PNAS 115).

    strength: weight of the penalty, 0 turns it off. decay: how much of the past Fisher is kept, in [0, 1].
    samples: rows of an increment that the Fisher is estimated from. every: increments between consolidations.

    The buffer `anchor` holds a, or F * a where not online: this, as F, merges exactly between participants.

    >>> EWC(strength=200.0)
    EWC(
      strength=200.0, decay=1.0, samples=1024, every=1, online=True
      (fisher): PerWeight()
      (anchor): PerWeight()
    )
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
        """Make room for F and a."""
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
        """Estimate the Fisher information of what was just learned, and move the anchor."""
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
