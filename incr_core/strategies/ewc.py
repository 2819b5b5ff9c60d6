"""Elastic weight consolidation."""

from __future__ import annotations

from typing import ClassVar

import torch

from incr_core.batch import Batch
from incr_core.errors import StrategyError
from incr_core.fisher import fisher_diagonal
from incr_core.sharding import local
from incr_core.strategy import Context, PerWeight, Strategy

__all__ = ["EWC"]


class EWC(Strategy):
    """Penalise moving weights that mattered.

        loss += strength / 2 * sum_j F_j (w_j - a_j)^2        as a gradient: g_j += strength * F_j (w_j - a_j)
        at the end of an increment: F <- decay * F + F_new, a <- w

    F is the diagonal Fisher information of the increment's rows and a the weights they left behind. Kirkpatrick et
    al. 2017 (PNAS 114), in the online form of Schwarz et al. 2018 (Progress & Compress, section 3): one running F and
    one anchor, so its memory does not grow with the number of increments.

    strength: weight of the penalty, 0 turns it off. decay: how much of the past Fisher is kept, in [0, 1].
    samples: rows of an increment that the Fisher is estimated from. every: increments between consolidations.

    >>> EWC(strength=200.0)
    EWC(
      strength=200.0, decay=1.0, samples=1024, every=1
      (fisher): PerWeight()
      (anchor): PerWeight()
    )
    """

    shared: ClassVar[dict[str, str]] = {"fisher": "mean", "anchor": "mean"}

    def __init__(self, strength: float = 100.0, decay: float = 1.0, samples: int = 1024, every: int = 1) -> None:
        super().__init__()
        if strength < 0:
            raise StrategyError(f"ewc.strength: expected 0 or more, got {strength}")
        if not 0 <= decay <= 1:
            raise StrategyError(f"ewc.decay: expected a number from 0 to 1, got {decay}")
        if samples < 1 or every < 1:
            raise StrategyError(f"ewc: expected samples and every of at least 1, got {samples} and {every}")
        self.strength = strength
        self.decay = decay
        self.samples = samples
        self.every = every
        self.fisher = PerWeight()
        self.anchor = PerWeight()

    def attach(self, ctx: Context) -> None:
        """Make room for F and a."""
        self.fisher.allocate(ctx)
        self.anchor.allocate(ctx)

    def after_backward(self, ctx: Context) -> None:
        """Add the penalty's gradient, without a graph."""
        if self.strength == 0:
            return
        weights, gradients, index = ctx.weights_and_gradients()
        drift = torch._foreach_sub(weights, self.anchor.tensors(index))
        torch._foreach_mul_(drift, self.fisher.tensors(index))
        torch._foreach_add_(gradients, drift, alpha=self.strength)

    @torch.no_grad()
    def end(self, ctx: Context, labelled: Batch) -> None:
        """Estimate the Fisher information of what was just learned, and move the anchor."""
        if self.strength == 0 or len(labelled) == 0 or (ctx.increment + 1) % self.every:
            return
        picked = torch.randperm(len(labelled), generator=ctx.generator, device=ctx.generator.device)[: self.samples]
        fisher = fisher_diagonal(ctx.model, ctx.objective, labelled.take(picked), ctx.generator)
        for old, new in zip(self.fisher.tensors(), (fisher[name] for name in ctx.names), strict=True):
            old.mul_(self.decay).add_(new)
        for anchor, weight in zip(self.anchor.tensors(), ctx.parameters, strict=True):
            anchor.copy_(local(weight))
