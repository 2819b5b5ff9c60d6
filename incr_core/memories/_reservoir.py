"""Reservoir sampling memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from incr_core.memories._base import Memory
from incr_core.memories._columns import Columns

__all__ = ["Reservoir"]

AHEAD = 4096
"""Number of rows whose slots are drawn at once; the cost of a draw is then small compared with the smallest batch."""


class Reservoir(Memory):
    """Uniform random sample of all rows seen so far (algorithm R, Vitter 1985), inserted in batches.

    Row s (counted from 0) takes slot s while s is below the capacity. Later rows draw a slot from 0..s and replace its
    content if the slot is below the capacity. Rows of one batch that draw the same slot overwrite each other in order,
    as if inserted one by one. Slots from `size` on are empty, freed by `drop`; a row that draws one of them takes the
    first, because empty slots are interchangeable.

    A slot depends only on the number of the row. Slots are therefore drawn ahead for `AHEAD` rows at once, and only
    those below the capacity are stored. A batch without such a row costs one comparison. Algorithm L (Li 1994), which
    draws the gap to the next row that stays, has the same property; drawing ahead is as fast where most rows stay. The
    division of rows into batches does not change the sample.

    With a ttl the memory is a sample of the last `ttl` rows: s stops growing at `ttl`, so a row is taken with
    probability capacity / ttl, and a row that is taken fills an empty slot before it replaces another row.

    Args:
        capacity: Number of rows, or a size such as "64MB".
        ttl: Rows older than this many insertions are removed. None keeps them.

    Example:
        >>> memory, generator = Reservoir(100), torch.Generator().manual_seed(0)
        >>> for day in range(50):
        ...     memory.insert({"targets": torch.full((20,), float(day))}, generator)
        >>> memory.size, memory.seen, 15 < float(memory.rows_held()["targets"].mean()) < 35
        (100, 1000, True)

    Reference:
        Vitter 1985, "Random sampling with a reservoir"; Li 1994.
    """

    def __init__(self, capacity: int | str, ttl: int | None = None) -> None:
        super().__init__(capacity, ttl)
        self._redraw()

    def insert(self, columns: Columns, generator: torch.Generator) -> None:
        """Insert new rows; about capacity / seen of them stay."""
        count = len(columns["targets"])
        if count == 0:
            return
        columns = self._dated(columns)
        self._allocate(columns)
        filling = min(count, max(0, self.capacity - self.seen))
        if filling:
            slots = torch.arange(self.size, self.size + filling, device=columns["targets"].device)
            self._write(slots, {name: column[:filling] for name, column in columns.items()})
            self.size += filling
        if filling < count and self.seen + count > self._next:
            self._take(columns, self.seen + count, generator)
        self.seen += count
        self._expire()

    def clear(self) -> None:
        """Remove all rows."""
        super().clear()
        self._redraw()

    def enlarge(self, times: float) -> None:
        """Multiply the capacity by `times`; slots of later rows are redrawn, since more of them stay."""
        super().enlarge(times)
        self._redraw()

    def deal(self, parts: Collection[int], of: int) -> None:
        """Keep some parts of the rows held; slots of later rows are redrawn for the new number of rows seen."""
        super().deal(parts, of)
        self._redraw()

    def join(self, other: Memory) -> None:
        """Merge another memory; slots of later rows are redrawn."""
        super().join(other)
        self._redraw()

    def _redraw(self) -> None:
        self._drawn = 0  # slots are drawn for all rows below this number
        self._next = 0  # the lowest number of a row that may stay
        # Numbers of the coming rows that stay, and their slots, (2, n). In numpy, which has less overhead for a few
        # numbers.
        self._coming: npt.NDArray[np.int64] = np.empty((2, 0), dtype=np.int64)

    def _take(self, columns: Columns, stop: int, generator: torch.Generator) -> None:
        """Place the rows that stay among those with a number below `stop`."""
        if stop > self._drawn:
            self._draw(stop, generator)
        count = int(self._coming[0].searchsorted(stop))
        if count:
            numbers, slots = self._coming[:, :count]
            self._place(slots, numbers - self.seen, columns)
            self._coming = self._coming[:, count:]
        self._next = int(self._coming[0, 0]) if self._coming.shape[1] else self._drawn

    def _draw(self, stop: int, generator: torch.Generator) -> None:
        """Draw the slots of rows up to number `stop`, rounded up to a multiple of `AHEAD`."""
        start = max(self._drawn, self.capacity, self.seen)
        count = -(-(stop - start) // AHEAD) * AHEAD
        among = torch.arange(start + 1, start + count + 1, dtype=torch.float64)
        if self.ttl is not None:
            among.clamp_(max=self.ttl)
        draw = torch.rand(count, generator=generator, dtype=torch.float64, device=generator.device)
        slots = among.mul_(draw.cpu()).long().numpy()
        stay = np.flatnonzero(slots < self.capacity)
        self._coming = np.concatenate([self._coming, [stay + start, slots[stay]]], axis=1)
        self._drawn = start + count

    def _place(self, slots: npt.NDArray[np.int64], taken: npt.NDArray[np.int64], columns: Columns) -> None:
        """Write the rows at `taken`, ascending, to the slots they drew, or to empty slots."""
        if self.ttl is not None:
            free = min(len(slots), self.capacity - self.size)
            slots[:free] = np.arange(self.size, self.size + free)
            self.size += free
        if len(taken) > 1:
            # Of several rows with the same slot the last one stays: sort by slot and keep the end of each run.
            order = slots.argsort(kind="stable")
            slots = slots[order]
            last = np.flatnonzero(np.append(slots[1:] != slots[:-1], True))
            slots, taken = slots[last], taken[order[last]]
        if self.size < self.capacity:
            held = int(slots.searchsorted(self.size))
            size = self.size + len(slots) - held
            slots[held:] = np.arange(self.size, size)
            self.size = size
        # The copy is non-blocking: a blocking copy would wait for all queued steps of the GPU.
        where = torch.from_numpy(np.stack([slots, taken])).to(columns["targets"].device, non_blocking=True)
        self._write(where[0], columns, where[1])

    def get_extra_state(self) -> dict[str, Any]:
        """Return the counts and the slots drawn ahead."""
        return {**super().get_extra_state(), "drawn": self._drawn, "coming": torch.from_numpy(self._coming.copy())}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore the counts and the slots."""
        super().set_extra_state(state)
        self._drawn, self._coming = int(state["drawn"]), state["coming"].cpu().numpy().copy()
        self._next = int(self._coming[0, 0]) if self._coming.shape[1] else self._drawn
