"""Class-balanced memory: a uniform sample of each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from incr_core.memories._base import Memory
from incr_core.memories._columns import Columns, even_shares, one_class_a_row

__all__ = ["Balanced"]


class Balanced(Memory):
    """Equal number of rows for each class; the rows of a class are a uniform sample of its rows.

    Each row draws a key in [0, 1). A class keeps its k rows of smallest key (bottom-k sampling), where k is its share
    of the capacity. Shares are even; slots that a rare class cannot fill go to the other classes. The limit of a class
    is the smallest key it has rejected. Invariant: the held rows of a class are exactly those of its rows whose key is
    below the limit. A row above the limit is rejected at once, so most batches cost almost nothing.

    With a ttl, a class that loses rows to age has no limit until it rejects a row again, so that it stays filled. Newer
    rows are then slightly more likely than older ones.

    Args:
        capacity: Number of rows, or a size such as "64MB".
        ttl: Rows older than this many insertions are removed. None keeps them.

    Example:
        >>> memory, generator = Balanced(10), torch.Generator().manual_seed(0)
        >>> memory.insert({"targets": torch.zeros(100)}, generator)
        >>> memory.insert({"targets": torch.ones(3)}, generator)
        >>> memory.insert({"targets": torch.full((50,), 2.0)}, generator)
        >>> memory.rows_held()["targets"].long().bincount().tolist()
        [4, 3, 3]

    Reference:
        Cohen & Kaplan 2007, bottom-k sketches.
    """

    def __init__(self, capacity: int | str, ttl: int | None = None) -> None:
        super().__init__(capacity, ttl)
        # Classes that have rejected rows, in ascending order, and the smallest key that each has rejected. The last
        # entry is a sentinel of infinite class and limit, so that searchsorted finds a place for every row.
        self._classes = self._limits = torch.full((1,), torch.inf, dtype=torch.float64)

    def insert(self, columns: Columns, generator: torch.Generator) -> None:
        """Insert new rows."""
        targets = columns["targets"]
        if len(targets) == 0:
            return
        one_class_a_row("balanced", targets)
        key = torch.rand(len(targets), generator=generator, dtype=torch.float64, device=targets.device)
        columns = {**self._dated(columns), "key": key}
        self._allocate(columns)
        self.seen += len(targets)
        self._expire()
        self._admit(columns)

    def join(self, other: Memory) -> None:
        """Merge another memory: of each class, keep the rows whose key is below the limits of both memories."""
        assert isinstance(other, Balanced)
        both = self._beside(other)
        self._room(other)
        self._lower(other._classes, other._limits)
        self.seen += other.seen
        self._hold(both, torch.arange(0))
        self._admit(both)

    def _lower(self, classes: Tensor, limits: Tensor) -> None:
        """Lower the limits of these classes to the given limits where those are smaller."""
        every, limit = torch.cat([self._classes, classes]), torch.cat([self._limits, limits])
        self._classes, which = torch.unique(every, return_inverse=True)
        self._limits = torch.full_like(self._classes, torch.inf).scatter_reduce(0, which, limit, "amin")

    def _admit(self, columns: Columns) -> None:
        """Store the rows whose key is below the limit of their class, up to the share of the class."""
        if not columns:
            return
        targets, key = columns["targets"], columns["key"]
        accepted = self._acceptable(targets, key).nonzero().flatten()
        if len(accepted) == 0:
            return
        if self.size + len(accepted) > self.capacity:
            accepted, slots = self._trim(targets, key, accepted)
        else:
            slots = torch.arange(self.size, self.size + len(accepted), device=targets.device)
        self._write(slots, columns, accepted)
        self.size = min(self.capacity, self.size + len(accepted))

    def _expire(self) -> None:
        if self.ttl is not None and self.size:
            held = self.rows_held()
            lost = torch.unique(held["targets"][self._expired(held)]).double()
            super()._expire()
            keep = ~torch.isin(self._classes, lost.to(self._classes.device))
            self._classes, self._limits = self._classes[keep], self._limits[keep]

    def clear(self) -> None:
        """Remove all rows and all limits."""
        super().clear()
        self._classes, self._limits = self._classes[-1:], self._limits[-1:]

    def _acceptable(self, targets: Tensor, key: Tensor) -> Tensor:
        """Whether each row's key is below the limit of its class, (n,). True where the class has rejected no row."""
        if self._classes.device != targets.device:
            self._classes, self._limits = self._classes.to(targets.device), self._limits.to(targets.device)
        labels = targets.double()
        place = torch.searchsorted(self._classes, labels)
        below = key < self._limits.index_select(0, place)
        return below | (self._classes.index_select(0, place) != labels)

    def _trim(self, targets: Tensor, key: Tensor, accepted: Tensor) -> tuple[Tensor, Tensor]:
        """Fill the memory with the best held and accepted rows; return the accepted rows that stay, and their slots."""
        held = self.rows_held()
        keys = torch.cat([held["key"], key.index_select(0, accepted)])
        every = torch.cat([held["targets"], targets.index_select(0, accepted)])
        labels, which, counts = torch.unique(every, return_inverse=True, return_counts=True)
        quota = torch.tensor(even_shares(counts.tolist(), self.capacity), device=which.device)
        by_key = keys.argsort(stable=True)
        order = by_key[which[by_key].argsort(stable=True)]  # by class, and by key within a class
        classes = which[order]
        rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[classes]
        allowed = quota[classes]
        refused = order[rank == allowed]  # the first row that each class now rejects
        self._limit(labels[which[refused]].double(), keys[refused])
        stays = torch.zeros_like(every, dtype=torch.bool).index_fill_(0, order[rank < allowed], True)
        freed = (~stays[: self.size]).nonzero().flatten()
        room = torch.arange(self.size, self.capacity, device=freed.device)
        return accepted[stays[self.size :]], torch.cat([freed, room])

    def _limit(self, classes: Tensor, limits: Tensor) -> None:
        before = ~torch.isin(self._classes, classes)
        self._classes, order = torch.cat([self._classes[before], classes]).sort()
        self._limits = torch.cat([self._limits[before], limits])[order]

    def get_extra_state(self) -> dict[str, Any]:
        """Return the counts and the limit of each class."""
        return {**super().get_extra_state(), "classes": self._classes, "limits": self._limits}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore the counts and the limits."""
        super().set_extra_state(state)
        self._classes, self._limits = state["classes"].clone(), state["limits"].clone()
