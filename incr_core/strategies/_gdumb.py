"""GDumb: a class-balanced memory, and retraining from scratch on it."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.memories import Balanced, columns_of, to_batch
from incr_core.strategies._arguments import not_negative, positive
from incr_core.strategies._base import Context, Strategy
from incr_core.strategies._traits import Traits
from incr_core.strategies.mechanisms import Snapshot

__all__ = ["GDumb"]


class GDumb(Strategy):
    """Store rows in a class-balanced memory, and retrain on them from the initial weights when an increment ends.

        at the end of an increment: w <- the initial weights; then `passes` passes over the memory by SGD in batches of
        `rows`, with lr_t = lr (1 + cos(pi t / T)) / 2 over all T steps. Statistics over all rows, such as the moments
        of
        the inputs, are kept.

    New rows are not learned directly: their loss has weight 0. The strategy cannot be combined with others, because it
    would overwrite their work.

    Args:
        capacity: Capacity of the memory, in rows or bytes.
        passes: Passes over the memory at the end of each increment. 0 turns the strategy off.
        lr: Initial learning rate.
        rows: Rows per batch.

    Example:
        >>> GDumb(capacity=500)
        GDumb(
          capacity=500, passes=10, lr=0.05, rows=64
          (memory): Balanced()
          (first): Snapshot(
            (weights): PerWeight()
            (statistics): Module()
          )
        )

    Reference:
        Prabhu et al. 2020, "GDumb: a simple approach that questions our progress in continual learning", section 3.
    """

    traits = Traits(
        sets_aside=True,
        remakes=True,
        alone="it retrains from the initial weights when an increment ends, which discards the work of others",
    )

    def __init__(self, capacity: int | str = 5000, passes: int = 10, lr: float = 0.05, rows: int = 64) -> None:
        super().__init__()
        self.capacity = capacity
        self.passes = int(not_negative("gdumb.passes", passes))
        self.lr = positive("gdumb.lr", lr)
        self.rows = int(positive("gdumb.rows", rows))
        self.memory = Balanced(capacity)
        self.first = Snapshot()

    @property
    def off(self) -> bool:
        """Whether `passes` is 0."""
        return self.passes == 0

    def attach(self, ctx: Context) -> None:
        """Capture the initial weights."""
        self.first.allocate(ctx)
        self.first.capture(ctx)

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        """Give new rows weight 0."""
        return replace(batch, weights=torch.zeros(len(batch), device=batch.targets.device))

    def draws(self, rows: int, batches: int) -> None:
        """Return None: it retrains on its whole memory."""

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """Insert the new rows into the memory."""
        self.memory.insert(columns_of(batch), ctx.generator)

    def end(self, ctx: Context, labelled: Batch) -> None:
        """Retrain on the memory."""
        if len(labelled) == 0 or self.memory.size == 0:
            return
        self.first.restore(ctx)
        held = to_batch(self.memory.rows_held())
        optimizer = torch.optim.SGD(ctx.parameters, lr=self.lr)
        steps = self.passes * math.ceil(len(held) / self.rows)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        ctx.model.train()
        for _ in range(self.passes):
            order = torch.randperm(len(held), generator=ctx.generator, device=ctx.generator.device)
            for part in held.take(order).split(self.rows):
                ctx.objective(ctx.model(part.inputs), part.targets, part.weights).backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
