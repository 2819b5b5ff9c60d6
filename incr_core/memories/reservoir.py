"""A uniform sample of everything seen."""

from __future__ import annotations

import torch
from torch import Tensor

from incr_core.memory import Columns, Memory

__all__ = ["Reservoir"]


class Reservoir(Memory):
    """A uniform sample of everything seen: algorithm R (Vitter 1985), a batch at a time.

    Row number s (from 0) takes slot s if that is below the capacity, or else a slot drawn from 0..s, if that is.
    Rows of one batch that draw the same slot overwrite one another in order, as one by one they would. Slots from
    `size` on are empty, freed by `forget`: which of them a row draws does not matter, so it takes the first.

    With a ttl it is a sample of the last `ttl` rows: once more were shown, s stays there, so that a row is taken with
    probability capacity / ttl, and one that is taken fills an empty slot before it takes another's.

    >>> memory, generator = Reservoir(100), torch.Generator().manual_seed(0)
    >>> for day in range(50):
    ...     memory.insert({"targets": torch.full((20,), float(day))}, generator)
    >>> memory.size, memory.seen, 15 < float(memory.rows_held()["targets"].mean()) < 35
    (100, 1000, True)
    """

    def insert(self, columns: Columns, generator: torch.Generator) -> None:
        """Show the memory new rows; about capacity / seen of them stay."""
        count = len(columns["targets"])
        if count == 0:
            return
        columns = self._dated(columns)
        self._allocate(columns)
        device = columns["targets"].device
        filling = min(count, max(0, self.capacity - self.seen))
        if filling == count:
            self._write(torch.arange(self.size, self.size + count, device=device), columns)
            self.size += count
        else:
            among = torch.arange(self.seen + 1, self.seen + count + 1, dtype=torch.float64, device=device)
            if self.ttl is not None:
                among.clamp_(max=self.ttl)
            draw = torch.rand(count, generator=generator, dtype=torch.float64, device=device)
            slots = draw.mul_(among).long()
            if filling:
                slots[:filling] = torch.arange(self.seen, self.capacity, device=device)
            self._place(slots, columns)
        self.seen += count
        self._expire()

    def _place(self, slots: Tensor, columns: Columns) -> None:
        taken = (slots < self.capacity).nonzero().flatten()
        if len(taken) == 0:
            return
        slots = slots.index_select(0, taken)
        if self.ttl is not None:
            free = min(len(slots), self.capacity - self.size)
            slots[:free] = torch.arange(self.size, self.size + free, device=slots.device)
            self.size += free
        if len(taken) > 1:
            # Of the rows that chose one slot, the last stays: sort by slot, keep the end of each run.
            slots, order = slots.sort(stable=True)
            keep = torch.ones_like(slots, dtype=torch.bool)
            torch.ne(slots[1:], slots[:-1], out=keep[:-1])
            slots, taken = slots[keep], taken[order[keep]]
        if self.size < self.capacity:
            held = int((slots < self.size).sum())
            size = self.size + len(slots) - held
            slots[held:] = torch.arange(self.size, size, device=slots.device)
            self.size = size
        self._write(slots, columns, taken)
