"""A model of each participant's own beside the common one: Ditto."""

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
    """Learn, beside the common model, one of this participant's own, which is kept close to it and answers its rows.

        every step:    v <- v - lr (dL(v) / dv + strength (v - a))        a: the anchor, the common weights that a round
        starts from

    Li et al. 2021, arXiv:2012.04221, algorithm 1, whose lambda is `strength`: 0 is a model learned alone, and the
    larger it is the nearer v stays to the common model. The common model is learned as without it, to the bit: its
    rows, its steps and the random numbers that it draws are the same. v takes plain steps, in the same batches; it has
    buffers of its own, and begins with the weights that all begin with. A step costs twice as much.

    strength: of the pull. lr: v's learning rate; None: that of the common model's optimiser.

    >>> Ditto(strength=0.5).extra_repr()
    'strength=0.5'
    """

    traits = Traits(rowwise=False)

    def __init__(self, strength: float = 0.1, lr: float | None = None) -> None:
        super().__init__()
        self.strength = not_negative("ditto.strength", strength)
        self.lr = None if lr is None else positive("ditto.lr", lr)
        self.own = Snapshot()  # v
        self.anchor = PerWeight()  # a
        self._common: list[str] = []  # buffers that are counts and sums

    def attach(self, ctx: Context) -> None:
        """Make room for both."""
        self.anchor.allocate(ctx)
        self.own.allocate(ctx)
        rules = merge_rules(ctx.model)
        self._common = [name for name, _ in ctx.model.named_buffers() if rules[name] not in ("mean", "average")]

    @torch.no_grad()
    def adopted(self, ctx: Context) -> None:
        """Keep a copy of the anchor; the first one is where v begins."""
        torch._foreach_copy_(self.anchor.tensors(), [as_reals(local(weight)) for weight in ctx.parameters])
        if not self.own.captured:
            self.own.capture(ctx)

    def begin(self, ctx: Context) -> None:
        """Keep a copy of the weights that the increment starts from."""
        self.adopted(ctx)

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """A step of v on the same rows, that leaves no trace in the common model."""
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
        """With v, once there is one."""
        return self._swapped_in(ctx) if self.own.captured else None

    @contextmanager
    def _swapped_in(self, ctx: Context) -> Iterator[None]:
        """Inside, the model has v; counts and sums, such as those that inputs are normalised by, are everybody's."""
        with torch.no_grad():
            for name in self._common:
                self.own.statistics.get_buffer(name.replace(".", "/")).copy_(local(ctx.model.get_buffer(name)))
        with self.own.swapped_in(ctx):
            yield
