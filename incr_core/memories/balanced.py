"""As many rows of each class, each class a uniform sample of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from incr_core.memory import Columns, Memory, even_shares, one_class_a_row

__all__ = ["Balanced"]


class Balanced(Memory):
    """As many rows of each class as the capacity allows, each class a uniform sample of its own rows.

    Each row draws a key in [0, 1); a class keeps its rows of smallest key (bottom-k sampling: Cohen & Kaplan 2007), k
    being its share of the capacity. Shares are even, and what a rare class does not fill goes to the others. The rows
    held of a class are always those of all it was shown whose key is below the smallest it ever refused, its limit;
    a row above the limit is refused at once, so most batches cost almost nothing.

    With a ttl, a class that lost rows to age has no limit until it refuses a row again, so that it stays filled; newer
    rows are then somewhat more likely than older ones.

    >>> memory, generator = Balanced(10), torch.Generator().manual_seed(0)
    >>> memory.insert({"targets": torch.zeros(100)}, generator)
    >>> memory.insert({"targets": torch.ones(3)}, generator)
    >>> memory.insert({"targets": torch.full((50,), 2.0)}, generator)
    >>> memory.rows_held()["targets"].long().bincount().tolist()
    [4, 3, 3]
    """

    def __init__(self, capacity: int | str, ttl: int | None = None) -> None:
        super().__init__(capacity, ttl)
        self._classes = torch.empty(0, dtype=torch.float64)  # that have refused rows, ascending
        self._limits = torch.empty(0, dtype=torch.float64)  # the smallest key each has refused

    def insert(self, columns: Columns, generator: torch.Generator) -> None:
        """Show the memory new rows."""
        targets = columns["targets"]
        if len(targets) == 0:
            return
        one_class_a_row("balanced", targets)
        columns = self._dated(columns)
        self._allocate({**columns, "key": torch.empty(1, dtype=torch.float64, device=targets.device)})
        self.seen += len(targets)
        self._expire()
        key = torch.rand(len(targets), generator=generator, dtype=torch.float64, device=targets.device)
        accepted = (key < self._limits_of(targets)).nonzero().flatten()
        if len(accepted) == 0:
            return
        fresh = {name: column.index_select(0, accepted) for name, column in {**columns, "key": key}.items()}
        stop = self.size + len(accepted)
        if stop <= self.capacity:
            self._write(torch.arange(self.size, stop, device=targets.device), fresh)
            self.size = stop
            return
        held = self.rows_held()
        self._trim({name: torch.cat([column, fresh[name]]) for name, column in held.items()})

    def _expire(self) -> None:
        if self.ttl is not None and self.size:
            held = self.rows_held()
            lost = torch.unique(held["targets"][self._expired(held)]).double()
            super()._expire()
            keep = ~torch.isin(self._classes, lost.to(self._classes.device))
            self._classes, self._limits = self._classes[keep], self._limits[keep]

    def clear(self) -> None:
        """Forget all rows, and what was refused."""
        super().clear()
        self._classes, self._limits = self._classes[:0], self._limits[:0]

    def _limits_of(self, targets: Tensor) -> Tensor:
        """The limit of each row's class; infinity where it has refused none."""
        if self._classes.device != targets.device:
            self._classes, self._limits = self._classes.to(targets.device), self._limits.to(targets.device)
        if len(self._classes) == 0:
            return torch.full_like(targets, torch.inf, dtype=torch.float64)
        labels = targets.double()
        place = torch.searchsorted(self._classes, labels).clamp_(max=len(self._classes) - 1)
        return torch.where(self._classes[place] == labels, self._limits[place], torch.inf)

    def _trim(self, columns: Columns) -> None:
        labels, which, counts = torch.unique(columns["targets"], return_inverse=True, return_counts=True)
        quota = torch.tensor(even_shares(counts.tolist(), self.capacity), device=which.device)
        by_key = columns["key"].argsort(stable=True)
        order = by_key[which[by_key].argsort(stable=True)]  # by class, and by key within a class
        start = counts.cumsum(0) - counts
        rank = torch.arange(len(order), device=order.device) - start[which[order]]
        allowed = quota[which[order]]
        refused = order[rank == allowed]  # the first row that each class now refuses
        self._limit(labels[which[refused]].double(), columns["key"][refused])
        keep = order[rank < allowed]
        self._write(torch.arange(len(keep), device=keep.device), columns, keep)
        self.size = len(keep)

    def _limit(self, classes: Tensor, limits: Tensor) -> None:
        before = ~torch.isin(self._classes, classes)
        self._classes, order = torch.cat([self._classes[before], classes]).sort()
        self._limits = torch.cat([self._limits[before], limits])[order]

    def get_extra_state(self) -> dict[str, Any]:
        """Counts, and the limit of each class."""
        return {**super().get_extra_state(), "classes": self._classes, "limits": self._limits}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        super().set_extra_state(state)
        self._classes, self._limits = state["classes"].clone(), state["limits"].clone()
