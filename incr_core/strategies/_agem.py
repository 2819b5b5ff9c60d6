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
    """Turn a step that would raise the loss of remembered rows until it does not.

        r = gradient of the mean loss of `rows` remembered rows
        g <- g - min(0, g.r / r.r) r

    Chaudhry et al. 2019, "Efficient lifelong learning with A-GEM", equation 11. The memory takes what an increment
    learned when it ends, as in the paper, where it holds past tasks only.

    capacity, ttl: of the memory (`Memory`): rows or bytes, and how long rows live.
    rows: how many the reference gradient is taken over, 0 turns it off.
    memory: see `memories.MEMORIES`.

    >>> AGEM(capacity=500, rows=128)
    AGEM(
      capacity=500, rows=128
      (memory): Reservoir()
    )
    """

    traits = Traits(phases={"after_backward": "project"})  # penalties are part of the step that is turned

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
        # Without asking the device whether the angle is obtuse: where it is not, the factor is 0.
        factor = (_inner(gradients, references) / _inner(references, references)).nan_to_num(0.0).clamp(max=0.0)
        turned = torch._foreach_mul([local(reference) for reference in references], factor)
        torch._foreach_sub_([local(gradient) for gradient in gradients], turned)

    def draws(self, rows: int, batches: int) -> int:
        """Those of the reference gradient, of each step."""
        return self.rows * batches

    @torch.no_grad()
    def end(self, ctx: Context, labelled: Batch) -> None:
        """Show the memory what was learned."""
        if self.rows > 0:
            self.memory.insert(columns_of(labelled), ctx.generator)


def _inner(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """The inner product over all weights, on every shard."""
    parts = [whole((one * other).sum()) for one, other in zip(left, right, strict=True)]
    return torch.stack(parts).sum()
