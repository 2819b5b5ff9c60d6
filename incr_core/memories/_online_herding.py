"""Online herding: a memory whose rows have the same mean as all rows of their class."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from incr_core.errors import ArgumentError
from incr_core.memories._base import Memory
from incr_core.memories._columns import Columns, even_shares, one_class_a_row
from incr_core.numerics import own_buffers

__all__ = ["OnlineHerding"]


class OnlineHerding(Memory):
    """Equal number of rows for each class, chosen so that their mean follows the mean of all rows of the class.

        gap = sum of the K rows held - K * mean of all rows of the class
        of a batch's rows x and the rows y held of its class, the pair of least |gap + x - y|^2 changes places, if that
        is below |gap|^2
        when shares shrink, the row y goes that leaves the least |gap + mean - y|^2, one after another

    Welling 2009 and iCaRL choose among all rows. This memory sees each row once, and compares inputs instead of
    activations. The mean of randomly drawn rows differs from the class mean by chance; a learner that repeats twenty
    rows of a class many times also fits that difference.

    The mean of each class takes one slot of the capacity. Rows must have a single class and one floating input tensor
    whose elements are of comparable size. Erasing a row that is held removes it from the mean; erasing the last row
    sets the mean to zero. Rows replaced earlier stay part of the mean, as they stay part of the model's weights.

    Args:
        capacity: Number of rows, or a size such as "64MB". It must exceed the number of classes.
        ttl: Must be None, because the means cover rows of every age.

    Example:
        >>> memory, generator = OnlineHerding(3), torch.Generator()
        >>> for value in (4.0, 0.0, 1.0, 9.0, 6.0):  # whose mean is 4
        ...     memory.insert({"inputs": torch.tensor([[value]]), "targets": torch.zeros(1)}, generator)
        >>> memory.rows_held()["inputs"].flatten().tolist()
        [9.0, 0.0]

    Reference:
        Welling 2009, "Herding dynamical weights to learn"; Rebuffi et al. 2017, iCaRL.
    """

    def __init__(self, capacity: int | str, ttl: int | None = None) -> None:
        super().__init__(capacity, ttl)
        if ttl is not None:
            raise ArgumentError("memory.ttl: herding follows the mean of rows of every age; use the memory balanced")
        # Number of rows in each mean, (C,). The means and their classes are stored in the last C slots of inputs and
        # targets.
        self._counts = torch.zeros(0)

    def insert(self, columns: Columns, generator: torch.Generator) -> None:
        """Insert new rows, (n, ...). The generator is not used."""
        targets = columns["targets"]
        if len(targets) == 0:
            return
        if "inputs" not in columns or not columns["inputs"].is_floating_point():
            raise ArgumentError(
                "memory: expected inputs of one floating tensor, which has a mean, got columns "
                f"{sorted(columns)}; use the memory 'balanced'"
            )
        one_class_a_row("herding", targets)
        self._allocate(columns)
        self.seen += len(targets)
        self._meet(targets)
        self._follow(targets, columns["inputs"], 1.0)
        settled = self._settled(targets)
        own, rest = (~settled).nonzero().flatten(), settled.nonzero().flatten()
        if len(own):
            held = self.rows_held()
            self._keep({name: torch.cat([held[name], column.index_select(0, own)]) for name, column in columns.items()})
        if len(rest):
            self._exchange({name: column.index_select(0, rest) for name, column in columns.items()})

    def drop(self, rows: Tensor) -> int:
        """Delete the rows with these ids, and remove them from the mean of their class."""
        held = self.rows_held()
        if "rows" in held:
            gone = torch.isin(held["rows"], rows.to(held["rows"].device)).nonzero().flatten()
            self._follow(held["targets"].index_select(0, gone), held["inputs"].index_select(0, gone), -1.0)
            self._summary()["inputs"][self._counts <= 0] = 0  # no rows are left in this mean
        return super().drop(rows)

    def deal(self, parts: Collection[int], of: int) -> None:
        """Keep some parts of the rows held; each part counts as its fraction of the rows in the means."""
        super().deal(parts, of)
        self._counts = self._counts * (len(parts) / of)

    def join(self, other: Memory) -> None:
        """Merge another memory; the means become those of all rows."""
        assert isinstance(other, OnlineHerding)
        self.seen += other.seen
        labels = other._summary().get("targets")
        if labels is None or not len(labels):
            return
        self._room(other)
        theirs = other.rows_held()
        self._allocate(theirs)
        self._meet(labels)
        which, means = self._places(labels), self._summary()["inputs"]
        total = self._counts[which] + other._counts
        share = (other._counts / total.clamp(min=1e-12)).to(means).reshape(-1, *[1] * (means.dim() - 1))
        means[which] += share * (other._summary()["inputs"] - means[which])
        self._counts[which] = total
        held = self.rows_held()
        self._keep({name: torch.cat([held[name], rows]) for name, rows in theirs.items()})

    def clear(self) -> None:
        """Remove all rows and means."""
        super().clear()
        for column in self._summary().values():
            column.zero_()
        self._counts = self._counts[:0]

    def enlarge(self, times: float) -> None:
        """Multiply the capacity by `times`, and move the means to the new end."""
        means = {name: column.clone() for name, column in self._summary().items()}
        super().enlarge(times)
        self._restore(means)

    def _summary(self) -> Columns:
        """Return the means and their classes, as views of the last slots."""
        start = self.capacity - len(self._counts)
        return {name: self.get_buffer(name)[start:] for name in ("inputs", "targets") if name in own_buffers(self)}

    def _restore(self, means: Columns) -> None:
        for name, column in self._summary().items():
            column.copy_(means[name])

    def _places(self, targets: Tensor) -> Tensor:
        """Return the index of each row's class among the means, (n,)."""
        return (targets[:, None] == self._summary()["targets"]).long().argmax(1)

    def _meet(self, targets: Tensor) -> None:
        """Allocate a slot for the mean of each new class, before the existing means."""
        self._counts = self._counts.to(targets.device)
        new = torch.unique(targets[~torch.isin(targets, self._summary()["targets"])])
        if not len(new):
            return
        room = self.capacity - len(self._counts) - len(new)
        if room < 1:
            raise ArgumentError(
                f"memory.capacity: expected more than the {self.capacity - room} classes seen, whose means take a slot "
                f"each, got {self.capacity}; give it more"
            )
        if self.size > room:
            self._keep(self.rows_held(), room)
        self._counts = torch.cat([self._counts.new_zeros(len(new)), self._counts])
        means = self._summary()
        means["inputs"][: len(new)] = 0
        means["targets"][: len(new)] = new

    def _follow(self, targets: Tensor, inputs: Tensor, sign: float) -> None:
        """Add rows to the mean of their class, or remove them: n <- n +- m,  mean <- mean +- sum (x - mean) / n."""
        which, means = self._places(targets), self._summary()["inputs"]
        self._counts = self._counts.index_add(0, which, torch.full_like(which, sign, dtype=self._counts.dtype))
        apart = torch.zeros_like(means).index_add_(0, which, inputs - means.index_select(0, which))
        means.add_(sign * apart / self._counts.clamp(min=1).to(means).reshape(-1, *[1] * (means.dim() - 1)))

    def _settled(self, targets: Tensor) -> Tensor:
        """Whether each row belongs to a class that already fills its share, (n,)."""
        room = self.capacity - len(self._counts)
        if self.size < room:
            return torch.zeros_like(targets, dtype=torch.bool)
        classes, counts = torch.unique(self.rows_held()["targets"], return_counts=True)
        return torch.isin(targets, classes[counts >= room // len(classes)])

    def _keep(self, every: Columns, room: int | None = None) -> None:
        """Hold these rows; if there are too many, remove rows of the classes that exceed their share."""
        room = self.capacity - len(self._counts) if room is None else room
        if len(every["targets"]) > room:
            classes, counts = torch.unique(every["targets"], return_counts=True)
            means, kept = self._summary()["inputs"][self._places(classes)], []
            for label, mean, share in zip(classes, means, even_shares(counts.tolist(), room), strict=True):
                members = (every["targets"] == label).nonzero().flatten()
                apart = (every["inputs"].index_select(0, members) - mean).flatten(1)
                kept.append(members[_balanced(apart, share)])
            places = torch.cat(kept)
            every = {name: column.index_select(0, places) for name, column in every.items()}
        self.size = len(every["targets"])
        self._write(torch.arange(self.size, device=every["targets"].device), every)

    def _exchange(self, fresh: Columns) -> None:
        """For each class, exchange one new row for one held row if that brings their mean closer to the class mean."""
        held, means = self.rows_held(), self._summary()["inputs"].flatten(1)
        members = torch.isin(held["targets"], fresh["targets"]).nonzero().flatten()
        y, x = held["inputs"].index_select(0, members).flatten(1), fresh["inputs"].flatten(1)
        y_class, x_class = self._places(held["targets"].index_select(0, members)), self._places(fresh["targets"])
        gap = torch.zeros_like(means).index_add_(0, y_class, y - means.index_select(0, y_class))
        # |gap + x - y|^2 - |gap|^2 = |x - y|^2 + 2 gap x - 2 gap y
        along_y = (gap.index_select(0, y_class) * y).sum(1)
        along_x = (gap.index_select(0, x_class) * x).sum(1, keepdim=True)
        change = torch.cdist(x, y).square() + 2 * (along_x - along_y)
        least, slots = change.masked_fill_(x_class[:, None] != y_class, torch.inf).min(1)
        order = least.argsort(stable=True)
        order = order[x_class[order].argsort(stable=True)]  # by class, then by gain within a class
        best = torch.ones_like(order, dtype=torch.bool)
        best[1:] = x_class[order[1:]] != x_class[order[:-1]]
        chosen = order[best & (least[order] < 0)]
        self._write(members[slots[chosen]], fresh, chosen)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the counts and the mean of each class."""
        means = {f"mean_{name}": column for name, column in self._summary().items()}
        return {**super().get_extra_state(), **means, "counts": self._counts}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore the counts and the means."""
        super().set_extra_state(state)
        self._counts = state["counts"].clone()
        self._restore({name: state[f"mean_{name}"] for name in self._summary()})


def _balanced(apart: Tensor, share: int) -> Tensor:
    """Drop rows of `apart` (rows minus the class mean, (n, d)) until `share` are left; return their places.

    Each step drops the row whose removal leaves the smallest sum.
    """
    places = torch.arange(len(apart), device=apart.device)
    while len(places) > share:
        gone = (apart.sum(0) - apart).square().sum(1).argmin()
        keep = torch.arange(len(places), device=apart.device) != gone
        places, apart = places[keep], apart[keep]
    return places
