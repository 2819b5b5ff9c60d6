"""Embedding tables for ids. An id gets a row after enough occurrences and loses it when it is unused for long."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from incr_core.numerics import writes

__all__ = ["BOOKKEEPING", "IdTable"]

BOOKKEEPING = ("keys", "seen", "used", "lately", "clock", "rows", "settings")
"""The buffers of a table. They change when counts are absorbed and at no other time."""


class Lookup(NamedTuple):
    """The rows in use, sorted by key, and the contents of the buffers from which they were derived."""

    keys: Tensor
    usable: Tensor
    writes: tuple[int, int]
    sorted_keys: Tensor
    rows: Tensor


class IdTable(nn.Embedding):
    """Embeddings of ids, one row each without collisions, in a table of fixed capacity.

    Ids are 64-bit keys (`Encoder`); key 0 is a missing id. All ids without a row share row 0.
    Participants count the keys of the rows they are about to learn (`count`). The counts of all participants are
    summed, and `absorb_ids` derives the new table from the old one and the sum:

        seen[id] += n                            an id is used once seen[id] >= after
        a new id takes a free row, else the row of the id unused for longest
        an id not seen within the last `unused` rows loses its row

    Ties are broken by count and key, so the table is a function of the sums and is equal on every participant, whatever
    the split of the rows. The initial numbers of a row are a function of its key. The first `plain` of them are 0.

    Rows merge in proportion to the occurrences of the id at each participant since the last merge. With anchor a,
    participant i's weights w_i and count n_i of an id:

        row = a + sum_i n_i / n (w_i - a)        n = sum_i n_i

    Each participant scales its own difference, and the differences are added by the rule "sum".

    Monolith (Liu et al. 2022, arXiv 2209.07663), sections 3.1 and 3.2.

    Args:
        capacity: maximum number of ids with a row.
        width: number of entries of a row.
        after: occurrences of an id from which its row is used.
        unused: number of rows learned after which an unused id loses its row. 0: only when another id needs the row.
        plain: number of entries of a row that begin at 0.
        sparse: whether gradients hold only the rows looked up.
        averaged: whether rows merge by the plain mean instead. Required where every step is exchanged.

    Shapes:
        keys (B,) int64 to (B, width).

    Example:
        >>> from incr_core.models._id_counts import absorb_ids
        >>> table = IdTable(capacity=2, width=1)
        >>> weights = {f"ids.{name}": value for name, value in table.state_dict().items()}
        >>> _ = absorb_ids(weights, {"ids.admitted": table.count(torch.tensor([7, 7, 9]))})
        >>> table.rows_of(torch.tensor([9, 7, 8]))
        tensor([2, 1, 0])
    """

    draws_nothing: ClassVar[bool] = True
    transient: ClassVar[tuple[str, ...]] = ("_lookup", "own")

    keys: Tensor
    seen: Tensor
    used: Tensor
    lately: Tensor
    clock: Tensor
    rows: Tensor
    settings: Tensor

    def __init__(
        self,
        capacity: int,
        width: int,
        after: int = 1,
        unused: int = 0,
        plain: int = 0,
        *,
        sparse: bool = False,
        averaged: bool = False,
    ) -> None:
        weight = torch.zeros(capacity + 1, width)
        super().__init__(capacity + 1, width, sparse=sparse, _weight=weight)
        self.averaged = averaged
        self.merge = dict.fromkeys(BOOKKEEPING, "max") | ({} if averaged else {"weight": "sum"})
        for name in ("keys", "seen", "used", "lately"):
            self.register_buffer(name, torch.zeros(capacity + 1, dtype=torch.int64))
        for name in ("clock", "rows"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self.register_buffer("settings", torch.tensor([after, unused, plain], dtype=torch.int64))
        self.own: tuple[Tensor, Tensor, int] | None = None  # this participant's ids, counts and rows of the increment
        self._lookup: Lookup | None = None

    def forward(self, keys: Tensor) -> Tensor:
        """The rows of ids, (B, width)."""
        found: Tensor = super().forward(self.rows_of(keys))
        return found

    def with_times(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of ids (B, width), and how often each id was seen (B,), 0 for ids that have no row."""
        rows = self.rows_of(keys)
        found: Tensor = super().forward(rows)
        return found, torch.where(rows > 0, self.seen[rows], 0)

    @torch.no_grad()
    def rows_of(self, keys: Tensor) -> Tensor:
        """The row of each id (B,), 0 for ids that have none."""
        lookup = self._found()
        # Asking for a value also ends a vmap at once, in which torch warns of each operation that it maps slowly.
        if not bool(keys.any()) or not len(lookup.rows):
            return torch.zeros_like(keys)
        place = torch.searchsorted(lookup.sorted_keys, keys.contiguous()).clamp_(max=len(lookup.rows) - 1)
        return torch.where(lookup.sorted_keys[place] == keys, lookup.rows[place], 0)

    @torch.no_grad()
    def in_use(self) -> Tensor:
        """The rows (n,) of ids that are used, in order of their keys."""
        return self._found().rows

    def _found(self) -> Lookup:
        kept, now = self._lookup, (writes(self.keys), writes(self.seen))
        if kept is not None and kept.writes == now and kept.keys.device == self.keys.device:
            return kept
        usable = (self.seen >= self.settings[0]) & (self.keys != 0)
        # Exchanges write equal contents into the buffers, and sorting costs more than comparing.
        if kept is not None and _equal(kept.keys, self.keys) and _equal(kept.usable, usable):
            self._lookup = kept._replace(writes=now)
            return self._lookup
        rows = usable.nonzero().flatten()
        sorted_keys, order = self.keys[rows].sort()
        self._lookup = Lookup(self.keys.clone(), usable, now, sorted_keys, rows[order])
        return self._lookup

    @staticmethod
    def count(keys: Tensor) -> Tensor:
        """The distinct ids among `keys` (B,) and how often each occurs, (n, 2) int64.

        The first entry has key 0 and counts all B rows.

        >>> IdTable.count(torch.tensor([5, 0, 5])).tolist()
        [[0, 3], [5, 2]]
        """
        distinct, counts = torch.unique(keys, return_counts=True)
        there = distinct != 0
        rows = torch.tensor([[0, len(keys)]], dtype=torch.int64, device=keys.device)
        return torch.cat([rows, torch.stack([distinct[there], counts[there]], dim=1)])

    def counted(self, keys: Tensor) -> None:
        """Record how often each row is seen in the current increment, for `share`."""
        ids, counts = torch.unique(self.rows_of(keys[keys != 0]), return_counts=True)
        self.own = ids, counts, len(keys)

    @torch.no_grad()
    def share(self, anchor: Tensor) -> None:
        """Scale the change of each row since `anchor` by this participant's share of the occurrences of its id.

        An id may come from remembered rows only, so that it has no count in this increment. Then the share is this
        participant's share of the rows.
        """
        rows = int(self.rows)
        if self.averaged or self.own is None or self.own[2] >= rows:
            return
        ids, counts, mine = self.own
        own = torch.zeros_like(self.lately).index_copy_(0, ids, counts)
        share = torch.where(self.lately > 0, own / self.lately.clamp(min=1), mine / rows).clamp_(max=1.0)
        part = share.to(self.weight.dtype)[:, None]
        weight, start = self.weight.detach(), anchor.to(self.weight.device)
        weight.copy_(torch.where(part < 1.0, start + part * (weight - start), weight))

    def __getstate__(self) -> dict[str, Any]:
        """A copy counts the writes to its own buffers from 0, so it keeps no lookup."""
        return {**self.__dict__, "_lookup": None}


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and torch.equal(one, other)
