"""A uniform sample of everything seen."""

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
"""Rows whose slots are drawn at once: what that costs is then little beside the smallest batch."""


class Reservoir(Memory):
    """A uniform sample of everything seen: algorithm R (Vitter 1985), a batch at a time.

    Row number s (from 0) takes slot s if that is below the capacity, or else a slot drawn from 0..s, if that is.
    Rows of one batch that draw the same slot overwrite one another in order, as one by one they would. Slots from
    `size` on are empty, freed by `drop`: which of them a row draws does not matter, so it takes the first.

    A slot depends on the row's number alone, so slots are drawn ahead, for `AHEAD` rows at once, and only those below
    the capacity are kept. A batch that has none of them costs a comparison: like algorithm L (Li 1994), which draws the
    gap to the next row that stays, but as cheap where most rows do. How rows are cut into batches changes nothing.

    With a ttl it is a sample of the last `ttl` rows: once more were shown, s stays there, so that a row is taken with
    probability capacity / ttl, and one that is taken fills an empty slot before it takes another's.

    >>> memory, generator = Reservoir(100), torch.Generator().manual_seed(0)
    >>> for day in range(50):
    ...     memory.insert({"targets": torch.full((20,), float(day))}, generator)
    >>> memory.size, memory.seen, 15 < float(memory.rows_held()["targets"].mean()) < 35
    (100, 1000, True)
    """

    def __init__(self, capacity: int | str, ttl: int | None = None) -> None:
        super().__init__(capacity, ttl)
        self._redraw()

    def insert(self, columns: Columns, generator: torch.Generator) -> None:
        """Show the memory new rows; about capacity / seen of them stay."""
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
        """Forget all rows."""
        super().clear()
        self._redraw()

    def enlarge(self, times: float) -> None:
        """Make room for `times` as many rows; those to come are drawn anew, since more of them stay."""
        super().enlarge(times)
        self._redraw()

    def deal(self, parts: Collection[int], of: int) -> None:
        """Keep some parts of what is held; rows to come are drawn anew, among as many as were seen now."""
        super().deal(parts, of)
        self._redraw()

    def join(self, other: Memory) -> None:
        """Take in what another one holds; rows to come are drawn anew."""
        super().join(other)
        self._redraw()

    def _redraw(self) -> None:
        self._drawn = 0  # rows of lower number have their slot drawn
        self._next = 0  # the lowest number of a row that may stay
        # Numbers of rows that will stay, and their slots, (2, n); in numpy, whose calls on a few numbers cost less.
        self._coming: npt.NDArray[np.int64] = np.empty((2, 0), dtype=np.int64)

    def _take(self, columns: Columns, stop: int, generator: torch.Generator) -> None:
        """Place the rows that stay, of those of a number below `stop`."""
        if stop > self._drawn:
            self._draw(stop, generator)
        count = int(self._coming[0].searchsorted(stop))
        if count:
            numbers, slots = self._coming[:, :count]
            self._place(slots, numbers - self.seen, columns)
            self._coming = self._coming[:, count:]
        self._next = int(self._coming[0, 0]) if self._coming.shape[1] else self._drawn

    def _draw(self, stop: int, generator: torch.Generator) -> None:
        """Draw the slots of more rows, up to number `stop` and on to a multiple of `AHEAD`."""
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
        """Write the rows at `taken`, ascending, to the slots they drew, or to empty ones."""
        if self.ttl is not None:
            free = min(len(slots), self.capacity - self.size)
            slots[:free] = np.arange(self.size, self.size + free)
            self.size += free
        if len(taken) > 1:
            # Of the rows that chose one slot, the last stays: sort by slot, keep the end of each run.
            order = slots.argsort(kind="stable")
            slots = slots[order]
            last = np.flatnonzero(np.append(slots[1:] != slots[:-1], True))
            slots, taken = slots[last], taken[order[last]]
        if self.size < self.capacity:
            held = int(slots.searchsorted(self.size))
            size = self.size + len(slots) - held
            slots[held:] = np.arange(self.size, size)
            self.size = size
        # Not waited for: a GPU that has steps to take would let the learner wait for those.
        where = torch.from_numpy(np.stack([slots, taken])).to(columns["targets"].device, non_blocking=True)
        self._write(where[0], columns, where[1])

    def get_extra_state(self) -> dict[str, Any]:
        """Counts, and what is drawn of the rows to come."""
        return {**super().get_extra_state(), "drawn": self._drawn, "coming": torch.from_numpy(self._coming.copy())}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        super().set_extra_state(state)
        self._drawn, self._coming = int(state["drawn"]), state["coming"].cpu().numpy().copy()
        self._next = int(self._coming[0, 0]) if self._coming.shape[1] else self._drawn
