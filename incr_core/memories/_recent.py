"""Memory of the most recent rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from incr_core.memories._base import Memory
from incr_core.memories._columns import Columns

__all__ = ["RecentRows"]


class RecentRows(Memory):
    """The last `capacity` rows, in a ring buffer. It suits drifting streams, where old rows mislead.

    Args:
        capacity: Number of rows, or a size such as "64MB".
        ttl: Rows older than this many insertions are removed. None keeps them.

    Example:
        >>> memory, generator = RecentRows(3), torch.Generator()
        >>> for day in range(5):
        ...     memory.insert({"targets": torch.tensor([float(day)])}, generator)
        >>> sorted(memory.rows_held()["targets"].tolist())
        [2.0, 3.0, 4.0]
    """

    _kind = "window"  # the name in job files and saved states

    def __init__(self, capacity: int | str, ttl: int | None = None) -> None:
        super().__init__(capacity, ttl)
        self._next = 0  # the slot of the next row: after the newest row; that of the oldest once the ring is full

    def insert(self, columns: Columns, generator: torch.Generator) -> None:
        """Insert new rows; they replace the oldest."""
        count = len(columns["targets"])
        if count == 0:
            return
        columns = self._dated(columns)
        self._allocate(columns)
        last = min(count, self.capacity)  # if more rows come than fit, only the last stay
        ahead = min(last, self.capacity - self._next)  # up to the end of the ring; the others continue at its start
        for name, column in columns.items():
            held, new = getattr(self, name), column[count - last :]
            held[self._next : self._next + ahead] = new[:ahead]
            if ahead < last:
                held[: last - ahead] = new[ahead:]
        self._next = (self._next + last) % self.capacity
        self.size = min(self.capacity, self.size + last)
        self.seen += count
        self._expire()

    def clear(self) -> None:
        """Remove all rows."""
        super().clear()
        self._next = 0

    def enlarge(self, times: float) -> None:
        """Multiply the capacity by `times`; the free slots follow the rows held."""
        self._by_age()
        super().enlarge(times)
        self._next = self.size % max(1, self.capacity)

    def join(self, other: Memory) -> None:
        """Merge another memory that covers the same period: the most recent rows of both stay."""
        assert isinstance(other, RecentRows)
        self._by_age()
        other._by_age()
        # Both memories end now: row i of n was inserted at fraction (i + 1) / n of the common period.
        when = torch.cat([torch.arange(1.0, size + 1) / max(1, size) for size in (self.size, other.size)])
        self._hold(self._beside(other), when.argsort(stable=True)[-self._room(other) :])
        self._next = self.size % max(1, self.capacity)
        self.seen += other.seen

    def _by_age(self) -> None:
        if self.size == self.capacity:
            for column in self.rows_held().values():
                column.copy_(column.roll(-self._next, 0))
            self._next = 0

    def _drop(self, which: Callable[[Columns], Tensor]) -> int:
        """Delete rows; the others keep their order of age."""
        self._by_age()
        removed = super()._drop(which)
        self._next = self.size % self.capacity
        return removed

    def get_extra_state(self) -> dict[str, Any]:
        """Return the counts and the next slot of the ring."""
        return {**super().get_extra_state(), "next": self._next}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore the counts and the next slot."""
        super().set_extra_state(state)
        self._next = int(state["next"])
