"""Averages of rows that are alike."""

from __future__ import annotations

import torch
from torch import Tensor

from incr_core._util import not_negative
from incr_core.errors import ArgumentError
from incr_core.memories._base import Memory
from incr_core.memories._columns import Columns, even_shares, one_class_a_row

__all__ = ["Prototypes"]


class Prototypes(Memory):
    """Averages of rows of one class that are alike: online k-means, the same number of means for every class.

        while its class is below its share, a row takes a slot of its own
        after that it joins the nearest mean c of its class:  n <- n + 1,  c <- c + (x - c) / n,
                                                              spread <- spread + (|x - c|^2 / d - spread) / n
        when shares shrink, the two means of a class that are closest, |a - b|^2 * n_a n_b / (n_a + n_b), become one

    MacQueen 1967, the first k-means; the merging cost is that of Ward 1963. Where rows of a class come in a few
    kinds, a mean stands for all rows of its kind, and twenty of them tell more than twenty rows. Every floating column
    is averaged (inputs; logits), all others keep the value of the slot's first row. `spread` is the mean squared
    distance of a slot's rows per input number, and a sample is drawn around the mean like them:

        x = c + noise * sqrt(spread) * e,  e ~ N(0, 1) for each input number

    noise: 0 gives the means themselves.

    Inputs must be one floating tensor. A row that has joined others cannot be taken out again: where rows must be
    erasable, use another memory.

    >>> memory, generator = Prototypes(2), torch.Generator()
    >>> rows = {"inputs": torch.tensor([[0.0], [9.0], [1.0], [11.0]]), "targets": torch.zeros(4)}
    >>> for place in range(4):
    ...     memory.insert({name: column[place:][:1] for name, column in rows.items()}, generator)
    >>> memory.rows_held()["inputs"].flatten().tolist(), memory.rows_held()["count"].tolist()
    ([0.5, 10.0], [2.0, 2.0])
    """

    def __init__(self, capacity: int | str, ttl: int | None = None, noise: float = 1.0) -> None:
        super().__init__(capacity, ttl)
        if ttl is not None:
            raise ArgumentError("memory.ttl: prototypes are means of rows of every age, none of which can be let go")
        self.noise = not_negative("memory.noise", noise)

    def sample_held(self, count: int, generator: torch.Generator) -> Columns:
        """`count` rows, each drawn around a mean, the means uniformly and with replacement."""
        return self.around(super().sample_held(count, generator), generator)

    def around(self, columns: Columns, generator: torch.Generator) -> Columns:
        """Rows drawn around the means given."""
        if self.noise > 0:
            means = columns["inputs"]
            drawn = torch.randn(means.shape, generator=generator, dtype=means.dtype, device=means.device)
            scale = self.noise * columns["spread"].clamp(min=0).sqrt().to(means.dtype)
            columns["inputs"] = torch.addcmul(means, drawn, scale.reshape(-1, *[1] * (means.dim() - 1)))
        return columns

    def insert(self, columns: Columns, generator: torch.Generator) -> None:
        """Show the memory new rows, (n, ...); it draws nothing."""
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
        """Refuse: a mean keeps something of every row in it, so no row can be taken out again."""
        raise ArgumentError(
            "memory.drop: prototypes are means of several rows, from which none can be erased; "
            "use a memory of rows, such as reservoir or balanced, where rows may have to be erased"
        )

    def join(self, other: Memory) -> None:
        """Take in the means of another memory; where there are too many, the closest become one."""
        if other.rows_held():
            self._room(other)
            self._allocate(other.rows_held())
            self._take_slots(other.rows_held())
        self.seen += other.seen

    def _settled(self, targets: Tensor) -> Tensor:
        """Which rows are of a class that has its share of slots already, (n,)."""
        if self.size < self.capacity:
            return torch.zeros_like(targets, dtype=torch.bool)
        held = self.get_buffer("targets")
        classes, counts = torch.unique(held, return_counts=True)
        share = self.capacity // len(classes)
        return torch.isin(targets, classes[counts >= share])

    def _join(self, columns: Columns) -> None:
        """Average each row into the nearest mean of its class."""
        inputs, held = columns["inputs"].flatten(1), self.rows_held()
        distance = torch.cdist(inputs, held["inputs"].flatten(1)).square()
        distance.masked_fill_(columns["targets"][:, None] != held["targets"], torch.inf)
        least, slots = distance.min(1)
        least = least.to(held["count"].dtype)  # inputs may be of another type
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
        """Give each row a slot of its own; then, while there are too many, merge the closest of classes over share."""
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
    """Merge the closest pair, until `share` slots are left."""
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
