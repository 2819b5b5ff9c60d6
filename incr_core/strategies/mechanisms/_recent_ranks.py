"""Ranks of values among recent ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from incr_core.strategies._arguments import at_least_one

__all__ = ["RecentRanks"]


class RecentRanks(nn.Module):
    """The last `size` values of a quantity in a ring buffer, with the class of each row.

        rank(v) = share of the values held that are at most v        1 while no value is held

    Ranks are uniform on (0, 1] while the distribution of values is stationary. They need no scale, and adapt to a drift
    within `size` rows.

    Args:
        size: Number of values.
        place: Name of the argument, for error messages.

    Example:
        >>> recent = RecentRanks(4)
        >>> recent.add(torch.tensor([9.0, 1.0, 2.0, 3.0, 4.0]))
        >>> recent.rank(torch.tensor([0.5, 2.0, 8.0])).tolist()
        [0.0, 0.5, 1.0]
    """

    values: Tensor
    classes: Tensor

    def __init__(self, size: int, place: str = "recent.size") -> None:
        super().__init__()
        self.size = at_least_one(place, size)
        self.held = 0
        self._next = 0
        self.register_buffer("values", torch.zeros(size))
        self.register_buffer("classes", torch.zeros(size, dtype=torch.int64))

    def add(self, values: Tensor, classes: Tensor | None = None) -> None:
        """Add values (n,), in order of arrival; they replace the oldest."""
        last = min(len(values), self.size)
        self._write(self.values, values[len(values) - last :])
        if classes is not None:
            self._write(self.classes, classes[len(values) - last :])
        self._next = (self._next + last) % self.size
        self.held = min(self.size, self.held + last)

    def _write(self, ring: Tensor, fresh: Tensor) -> None:
        before = min(len(fresh), self.size - self._next)  # up to the end of the ring
        ring[self._next : self._next + before].copy_(fresh[:before])
        if before < len(fresh):
            ring[: len(fresh) - before].copy_(fresh[before:])

    def rank(self, values: Tensor, classes: Tensor | None = None) -> Tensor:
        """Return the rank of each value (n,), among those of its class if classes (n,) are given."""
        values = values.to(self.values.dtype)
        if self.held == 0:
            return torch.ones_like(values)
        if classes is None:
            return torch.searchsorted(self.values[: self.held].sort().values, values, right=True) / self.held
        below = self.values[: self.held] <= values[:, None]
        own = self.classes[: self.held] == classes[:, None].long()
        count = own.sum(1)
        return torch.where(count > 0, (below & own).sum(1) / count.clamp(min=1), 1.0)

    def shares(self) -> tuple[Tensor, Tensor]:
        """Return the classes held, (C,) ascending, and the share of each."""
        classes, counts = torch.unique(self.classes[: self.held], return_counts=True)
        return classes, counts / self.held

    def get_extra_state(self) -> dict[str, Any]:
        """Return the number of values and the next position of the ring."""
        return {"held": self.held, "next": self._next}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore both numbers."""
        self.held, self._next = int(state["held"]), int(state["next"])
