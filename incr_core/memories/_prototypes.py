"""Prototypes: means of similar rows of a class."""

from __future__ import annotations

import torch
from torch import Tensor

from incr_core._util import not_negative
from incr_core.errors import ArgumentError
from incr_core.memories._base import Memory
from incr_core.memories._columns import Columns, even_shares, one_class_a_row

__all__ = ["Prototypes"]


class Prototypes(Memory):
    """Means of similar rows of one class: online k-means with the same number of means for every class.

        while its class is below its share, a row takes a new slot
        then it joins the nearest mean c of its class:  n <- n + 1,  c <- c + (x - c) / n,
                                                        spread <- spread + (|x - c|^2 / d - spread) / n
        when shares shrink, the two closest means of a class, by |a - b|^2 * n_a n_b / (n_a + n_b), are merged

    If the rows of a class form a few clusters, a mean represents its whole cluster, and twenty means carry more
    information than twenty rows. Every floating column is averaged (inputs, logits); the other columns keep the value
    of the slot's first row. `spread` is the mean squared distance of a slot's rows to their mean, divided by the number
    of inputs. Samples are drawn around the mean with the same spread:

        x = c + noise * sqrt(spread) * e,  e ~ N(0, 1) for each input number

    Inputs must be one floating tensor. A row that has joined a mean cannot be removed: use another memory where rows
    must be erasable.

    Args:
        capacity: Number of means, or a size such as "64MB".
        ttl: Must be None, because the means cover rows of every age.
        noise: Factor of the standard deviation of samples. 0 gives the means themselves.

    Example:
        >>> memory, generator = Prototypes(2), torch.Generator()
        >>> rows = {"inputs": torch.tensor([[0.0], [9.0], [1.0], [11.0]]), "targets": torch.zeros(4)}
        >>> for place in range(4):
        ...     memory.insert({name: column[place:][:1] for name, column in rows.items()}, generator)
        >>> memory.rows_held()["inputs"].flatten().tolist(), memory.rows_held()["count"].tolist()
        ([0.5, 10.0], [2.0, 2.0])

    Reference:
        MacQueen 1967 (k-means); Ward 1963 (the cost of a merge).
    """

    def __init__(self, capacity: int | str, ttl: int | None = None, noise: float = 1.0) -> None:
        super().__init__(capacity, ttl)
        if ttl is not None:
            raise ArgumentError(
                "memory.ttl: prototypes are means of rows of every age, which cannot expire; leave it out"
            )
        self.noise = not_negative("memory.noise", noise)

    def sample_held(self, count: int, generator: torch.Generator) -> Columns:
        """Draw means uniformly and with replacement, and draw one row around each."""
        return self.around(super().sample_held(count, generator), generator)

    def around(self, columns: Columns, generator: torch.Generator) -> Columns:
        """Return rows drawn around the given means."""
        if self.noise > 0:
            means = columns["inputs"]
            drawn = torch.randn(means.shape, generator=generator, dtype=means.dtype, device=means.device)
            scale = self.noise * columns["spread"].clamp(min=0).sqrt().to(means.dtype)
            columns["inputs"] = torch.addcmul(means, drawn, scale.reshape(-1, *[1] * (means.dim() - 1)))
        return columns

    def insert(self, columns: Columns, generator: torch.Generator) -> None:
        """Insert new rows, (n, ...). The generator is not used."""
        count = len(columns["targets"])
        if count == 0:
            return
        if "inputs" not in columns or not columns["inputs"].is_floating_point():
            raise ArgumentError(
                "memory: expected inputs of one floating tensor to average, got columns "
                f"{sorted(columns)}; use the memory 'balanced'"
            )
        one_class_a_row("prototypes", columns["targets"])
        ones = torch.ones(count, device=columns["targets"].device)
        fresh = {**columns, "count": ones, "spread": torch.zeros_like(ones)}
        self._allocate(fresh)
        self.seen += count
        settled = self._settled(columns["targets"])
        join = settled.nonzero().flatten()
        if len(join) < count:
            own = (~settled).nonzero().flatten()
            self._take_slots({name: column.index_select(0, own) for name, column in fresh.items()})
        if len(join):
            self._join({name: column.index_select(0, join) for name, column in columns.items()})

    def drop(self, rows: Tensor) -> int:
        """Raise an ArgumentError: a mean contains every row that joined it, so no row can be removed."""
        raise ArgumentError(
            "memory.drop: prototypes are means of several rows, from which none can be erased; "
            "use a memory of rows, such as reservoir or balanced, where rows may have to be erased"
        )

    def join(self, other: Memory) -> None:
        """Merge another memory; if there are too many means, the closest are merged."""
        if other.rows_held():
            self._room(other)
            self._allocate(other.rows_held())
            self._take_slots(other.rows_held())
        self.seen += other.seen

    def _settled(self, targets: Tensor) -> Tensor:
        """Whether each row belongs to a class that already fills its share, (n,)."""
        if self.size < self.capacity:
            return torch.zeros_like(targets, dtype=torch.bool)
        held = self.get_buffer("targets")
        classes, counts = torch.unique(held, return_counts=True)
        share = self.capacity // len(classes)
        return torch.isin(targets, classes[counts >= share])

    def _join(self, columns: Columns) -> None:
        """Add each row to the nearest mean of its class."""
        inputs, held = columns["inputs"].flatten(1), self.rows_held()
        distance = torch.cdist(inputs, held["inputs"].flatten(1)).square()
        distance.masked_fill_(columns["targets"][:, None] != held["targets"], torch.inf)
        least, slots = distance.min(1)
        least = least.to(held["count"].dtype)  # inputs may have another dtype
        joined = torch.zeros_like(held["count"]).index_add_(0, slots, torch.ones_like(least))
        total = held["count"] + joined
        sums = torch.zeros_like(total).index_add_(0, slots, least / inputs.shape[1])
        held["spread"].add_((sums - joined * held["spread"]) / total)
        for name, column in columns.items():
            if column.is_floating_point() and name != "targets":
                mean = held[name]
                weight = total.reshape(-1, *[1] * (mean.dim() - 1)).to(mean.dtype)
                added = torch.zeros_like(mean).index_add_(0, slots, column - mean.index_select(0, slots))
                mean.add_(added / weight)
        held["count"].copy_(total)

    def _take_slots(self, fresh: Columns) -> None:
        """Give each row a new slot; if there are too many, merge the closest means of classes above their share."""
        held = self.rows_held()
        every = {name: torch.cat([held[name], column]) for name, column in fresh.items()}
        over = len(every["targets"]) - self.capacity
        if over > 0:
            classes, counts = torch.unique(every["targets"], return_counts=True)
            shares = even_shares(counts.tolist(), self.capacity)
            kept = []
            for label, share in zip(classes, shares, strict=True):
                members = (every["targets"] == label).nonzero().flatten()
                kept.append(_merged({name: column.index_select(0, members) for name, column in every.items()}, share))
            every = {name: torch.cat([part[name] for part in kept]) for name in every}
        self.size = len(every["targets"])
        self._write(torch.arange(self.size, device=every["targets"].device), every)


def _merged(columns: Columns, share: int) -> Columns:
    """Merge the closest pair until `share` slots are left."""
    if share == 0:
        return {name: column[:0] for name, column in columns.items()}
    while len(columns["targets"]) > share:
        inputs, count = columns["inputs"].flatten(1), columns["count"]
        squared = torch.cdist(inputs, inputs).square()
        cost = squared * count[:, None] * count / (count[:, None] + count)
        cost.fill_diagonal_(torch.inf)
        pair = cost.argmin()
        one, other = pair // len(count), pair % len(count)
        part = count[other] / (count[one] + count[other])
        apart = squared[one, other] / inputs.shape[1]
        spread = columns["spread"]
        spread[one] += part * (spread[other] - spread[one]) + part * (1 - part) * apart
        for name, column in columns.items():
            if column.is_floating_point() and name not in ("targets", "count", "spread"):
                column[one] += (part * (column[other] - column[one])).to(column.dtype)
        count[one] += count[other]
        rest = torch.arange(len(count), device=count.device) != other
        columns = {name: column[rest] for name, column in columns.items()}
    return columns
