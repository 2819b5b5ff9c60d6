"""Experience replay."""

from __future__ import annotations

from torch import Tensor

from incr_core.batch import Batch, cat
from incr_core.memories import columns_of, memory_named, to_batch
from incr_core.strategies._arguments import not_negative
from incr_core.strategies._base import Context, Strategy

__all__ = ["Replay"]


class Replay(Strategy):
    """Learn remembered rows again together with the new ones, in one forward.

        loss = mean over the n new rows and round(ratio * n) remembered rows

    Args:
        capacity: Capacity of the memory, in rows or bytes; see `Memory`.
        ratio: Remembered rows per new row in each batch. 0 turns the strategy off.
        memory: "reservoir", a uniform sample of all rows seen; "balanced", the same number for every class; "herding",
            the same number for every class with the mean of their class; "window", the last rows. See
            `memories.MEMORIES`.
        ttl: Lifetime of rows in the memory; see `Memory`.

    Example:
        >>> Replay(capacity=500, ratio=1.0)
        Replay(
          capacity=500, ratio=1.0
          (memory): Reservoir()
        )

    Reference:
        Chaudhry et al. 2019, "On tiny episodic memories in continual learning" (ER).
    """

    def __init__(
        self, capacity: int | str = 5000, ratio: float = 1.0, memory: str = "reservoir", ttl: int | None = None
    ) -> None:
        super().__init__()
        self.capacity = capacity
        self.ratio = not_negative("replay.ratio", ratio)
        self.memory = memory_named("replay.memory", memory, capacity, ttl)

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        """Append remembered rows; a non-empty batch gets at least one, unless the ratio is 0."""
        if self.memory.available == 0 or self.ratio == 0:
            return batch
        count = ctx.per_new_row(self.ratio)
        # With replacement, k draws for k micro-batches equal one draw for all, so accumulation stays exact.
        remembered = to_batch(self.memory.sample(count, ctx.generator))
        return cat([batch, remembered])

    def draws(self, rows: int, batches: int) -> int:
        """Return `ratio` rows per new row."""
        return round(self.ratio * rows)

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """Insert the new rows into the memory."""
        if self.ratio > 0:
            self.memory.insert(columns_of(batch), ctx.generator)
