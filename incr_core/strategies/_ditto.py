"""Ditto: a personal model of each participant beside the common one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.models import merge_rules
from incr_core.numerics import as_dense, as_reals, local
from incr_core.strategies._arguments import not_negative, positive
from incr_core.strategies._base import Context, PerWeight, Strategy
from incr_core.strategies._traits import Traits
from incr_core.strategies.mechanisms import Snapshot

__all__ = ["Ditto"]


class Ditto(Strategy):
    """Learn a personal model beside the common one, keep it close to it, and predict this participant's rows with it.

        every step:    v <- v - lr (dL(v) / dv + strength (v - a))
        a: the anchor, the common weights at the start of the round

    lambda in the paper is `strength`: 0 is a model learned alone; a larger value keeps v closer to the common model.
    The common model is bit-identical to one learned without Ditto: its rows, steps and random numbers are the same. v
    takes plain SGD steps on the same batches, has its own buffers, and starts from the common initial weights. A step
    costs twice as much.

    Args:
        strength: Weight of the pull towards the anchor.
        lr: Learning rate of v. None takes that of the common model's optimiser.

    Example:
        >>> Ditto(strength=0.5).extra_repr()
        'strength=0.5'

    Reference:
        Li et al. 2021, arXiv:2012.04221, algorithm 1.
    """

    traits = Traits(rowwise=False)

    def __init__(self, strength: float = 0.1, lr: float | None = None) -> None:
        super().__init__()
        self.strength = not_negative("ditto.strength", strength)
        self.lr = None if lr is None else positive("ditto.lr", lr)
        self.own = Snapshot()  # v
        self.anchor = PerWeight()  # a
        self._common: list[str] = []  #     self._common: list[str] = []  # buffers that hold counts and sums

    def attach(self, ctx: Context) -> None:
        """Allocate v and a."""
        self.anchor.allocate(ctx)
        self.own.allocate(ctx)
        rules = merge_rules(ctx.model)
        self._common = [name for name, _ in ctx.model.named_buffers() if rules[name] not in ("mean", "average")]

    @torch.no_grad()
    def adopted(self, ctx: Context) -> None:
        """Copy the anchor; the first anchor initialises v."""
        torch._foreach_copy_(self.anchor.tensors(), [as_reals(local(weight)) for weight in ctx.parameters])
        if not self.own.captured:
            self.own.capture(ctx)

    def begin(self, ctx: Context) -> None:
        """Copy the weights at the start of the increment."""
        self.adopted(ctx)

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """Take a step of v on the same rows, without any effect on the common model."""
        with ctx.rewound(), self._swapped_in(ctx):
            ctx.model.train()
            with torch.enable_grad():
                loss = ctx.objective(ctx.model(batch.inputs), batch.targets, batch.weights)
                loss.backward()
            weights, given, index = ctx.weights_and_gradients()
            gradients = [as_dense(gradient) for gradient in given]
            pull = torch._foreach_sub(weights, self.anchor.tensors(index))
            torch._foreach_add_(gradients, pull, alpha=self.strength)
            rates = self.lr or ctx.rates(index)
            for weight, gradient, rate in zip(
                weights, gradients, rates if isinstance(rates, list) else [rates] * len(index), strict=True
            ):
                weight.add_(gradient, alpha=-rate)
            for parameter in ctx.parameters:
                parameter.grad = None
            self.own.capture(ctx)

    def answering(self, ctx: Context) -> AbstractContextManager[None] | None:
        """Return a context with the weights v, once they exist."""
        return self._swapped_in(ctx) if self.own.captured else None

    @contextmanager
    def _swapped_in(self, ctx: Context) -> Iterator[None]:
        """Give the model the weights v. Counts and sums, such as those for normalising inputs, stay common."""
        with torch.no_grad():
            for name in self._common:
                self.own.statistics.get_buffer(name.replace(".", "/")).copy_(local(ctx.model.get_buffer(name)))
        with self.own.swapped_in(ctx):
            yield
