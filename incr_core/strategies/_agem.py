"""Averaged gradient episodic memory."""

from __future__ import annotations

import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.memories import columns_of, draw, memory_named, to_batch
from incr_core.numerics import as_reals, local, whole
from incr_core.strategies._arguments import not_negative
from incr_core.strategies._base import Context, Strategy
from incr_core.strategies._traits import Traits

__all__ = ["AGEM"]


class AGEM(Strategy):
    """Project each step so that it does not raise the loss of remembered rows.

        r = gradient of the mean loss of `rows` remembered rows
        g <- g - min(0, g.r / r.r) r

    The memory receives the rows of an increment when the increment ends: as in the paper, it holds past tasks only.

    Args:
        capacity: Capacity of the memory, in rows or bytes; see `Memory`.
        rows: Number of rows of the reference gradient. 0 turns the strategy off.
        memory: A name in `memories.MEMORIES`.
        ttl: Lifetime of rows in the memory; see `Memory`.

    Example:
        >>> AGEM(capacity=500, rows=128)
        AGEM(
          capacity=500, rows=128
          (memory): Reservoir()
        )

    Reference:
        Chaudhry et al. 2019, "Efficient lifelong learning with A-GEM", equation 11.
    """

    traits = Traits(phases={"after_backward": "project"})  # penalties are part of the step that is projected

    def __init__(
        self, capacity: int | str = 5000, rows: int = 128, memory: str = "reservoir", ttl: int | None = None
    ) -> None:
        super().__init__()
        self.capacity = capacity
        self.rows = int(not_negative("agem.rows", rows))
        self.memory = memory_named("agem.memory", memory, capacity, ttl)

    def after_backward(self, ctx: Context) -> None:
        """Project the gradient."""
        if self.rows == 0 or self.memory.available == 0:
            return
        remembered = to_batch(draw(self.memory, self.rows, ctx.generator))
        mine = [weight.grad for weight in ctx.parameters]
        for weight in ctx.parameters:
            weight.grad = None
        with torch.enable_grad():
            ctx.objective(ctx.model(remembered.inputs), remembered.targets, remembered.weights).backward()
        pairs = [
            (as_reals(gradient), as_reals(weight.grad))
            for gradient, weight in zip(mine, ctx.parameters, strict=True)
            if gradient is not None and weight.grad is not None
        ]
        for weight, gradient in zip(ctx.parameters, mine, strict=True):
            weight.grad = gradient
        gradients, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        # No synchronisation with the device: if the gradients do not conflict, the factor is 0.
        factor = (_inner(gradients, references) / _inner(references, references)).nan_to_num(0.0).clamp(max=0.0)
        turned = torch._foreach_mul([local(reference) for reference in references], factor)
        torch._foreach_sub_([local(gradient) for gradient in gradients], turned)

    def draws(self, rows: int, batches: int) -> int:
        """Return the rows of the reference gradients of all steps."""
        return self.rows * batches

    @torch.no_grad()
    def end(self, ctx: Context, labelled: Batch) -> None:
        """Insert the learned rows into the memory."""
        if self.rows > 0:
            self.memory.insert(columns_of(labelled), ctx.generator)


def _inner(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """Return the inner product over all weights and shards."""
    parts = [whole((one * other).sum()) for one, other in zip(left, right, strict=True)]
    return torch.stack(parts).sum()
