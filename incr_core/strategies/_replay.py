"""Experience replay."""

from __future__ import annotations

from torch import Tensor

from incr_core.batch import Batch, cat
from incr_core.memories import columns_of, memory_named, to_batch
from incr_core.strategies._arguments import not_negative
from incr_core.strategies._base import Context, Strategy

__all__ = ["Replay"]


class Replay(Strategy):
    """Learn remembered rows again beside the new ones, in one forward.

        loss = mean over the n new rows and round(ratio * n) remembered rows

    Chaudhry et al. 2019, "On tiny episodic memories in continual learning" (ER).

    capacity, ttl: of the memory (`Memory`): rows or bytes, and how long rows live.
    ratio: remembered rows per new row in each batch; 0 turns replay off.
    memory: "reservoir", a uniform sample of all rows seen; "balanced", the same number of every class;
    "herding", as many whose mean is that of their class; "window", the last rows; see `memories.MEMORIES`.

    >>> Replay(capacity=500, ratio=1.0)
    Replay(
      capacity=500, ratio=1.0
      (memory): Reservoir()
    )
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
        # With replacement: k draws for k micro-batches are then one draw for all, and accumulation stays exact.
        remembered = to_batch(self.memory.sample(count, ctx.generator))
        return cat([batch, remembered])

    def draws(self, rows: int, batches: int) -> int:
        """`ratio` for each new row."""
        return round(self.ratio * rows)

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """Show the new rows to the memory."""
        if self.ratio > 0:
            self.memory.insert(columns_of(batch), ctx.generator)
