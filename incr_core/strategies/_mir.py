"""Maximally interfered retrieval."""

from __future__ import annotations

import torch
from torch import Tensor

from incr_core.batch import Batch, cat
from incr_core.memories import columns_of, draw, memory_named, to_batch
from incr_core.strategies._arguments import at_least_one, not_negative
from incr_core.strategies._base import Context, Strategy

__all__ = ["MIR"]


class MIR(Strategy):
    """Replay the remembered rows whose loss the coming step would raise most.

        w' = w - lr * gradient of the new rows' mean loss
        replay the round(ratio * n) of `candidates` remembered rows with the largest loss(w') - loss(w)

    It costs about three forwards and one backward more than replay. The virtual step is evaluated in eval mode, so
    dropout adds no noise and BatchNorm statistics do not change.

    Args:
        capacity: Capacity of the memory, in rows or bytes; see `Memory`.
        ratio: Replayed rows per new row. 0 turns the strategy off.
        candidates: Number of remembered rows to choose from.
        memory: A name in `memories.MEMORIES`.
        ttl: Lifetime of rows in the memory; see `Memory`.

    Example:
        >>> MIR(capacity=500)
        MIR(
          capacity=500, ratio=1.0, candidates=50
          (memory): Reservoir()
        )

    Reference:
        Aljundi et al. 2019, "Online continual learning with maximally interfered retrieval", section 3.1.
    """

    def __init__(
        self,
        capacity: int | str = 5000,
        ratio: float = 1.0,
        candidates: int = 50,
        memory: str = "reservoir",
        ttl: int | None = None,
    ) -> None:
        super().__init__()
        self.capacity = capacity
        self.ratio = not_negative("mir.ratio", ratio)
        self.candidates = at_least_one("mir.candidates", candidates)
        self.memory = memory_named("mir.memory", memory, capacity, ttl)

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        """Append the most interfered rows."""
        if self.ratio == 0 or self.memory.available == 0:
            return batch
        count = ctx.per_new_row(self.ratio)
        found = to_batch(draw(self.memory, max(self.candidates, count), ctx.generator))
        assert ctx.new is not None, "the learner's step sets it"
        training = ctx.model.training
        ctx.model.eval()
        harm = self._harm(ctx, ctx.new, found)
        ctx.model.train(training)
        return cat([batch, found.take(harm.topk(count).indices)])

    def draws(self, rows: int, batches: int) -> int:
        """Return the number of candidates of all batches."""
        return 0 if self.ratio == 0 else max(self.candidates * batches, round(self.ratio * rows))

    def _harm(self, ctx: Context, batch: Batch, found: Batch) -> Tensor:
        """Return loss(w') - loss(w) of every row found, (n,)."""
        with torch.no_grad():
            before = ctx.objective.rows(ctx.model(found.inputs), found.targets)
        # Save gradients that an accumulating step already holds.
        held = [weight.grad for weight in ctx.parameters]
        for weight in ctx.parameters:
            weight.grad = None
        ctx.objective(ctx.model(batch.inputs), batch.targets, batch.weights).backward()
        weights, gradients, index = ctx.weights_and_gradients()
        lr = ctx.rates(index)
        kept = [weight.clone() for weight in weights]
        with torch.no_grad():
            torch._foreach_sub_(weights, torch._foreach_mul(gradients, lr))
            after = ctx.objective.rows(ctx.model(found.inputs), found.targets)
            torch._foreach_copy_(weights, kept)
        for weight, gradient in zip(ctx.parameters, held, strict=True):
            weight.grad = gradient
        return after - before

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """Insert the new rows into the memory."""
        if self.ratio > 0:
            self.memory.insert(columns_of(batch), ctx.generator)
