"""Embedding tables that grow: an id gets a row once it was seen often enough, and loses it when unused for long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from incr_core.numerics import writes

__all__ = [
    "ADMITTED",
    "IdTable",
    "absorb_ids",
    "count_ids",
    "is_id_count",
    "kept_in_id_tables",
    "retracted",
]

ADMITTED = ".admitted"
"""End of the name under which counts of ids are told, beside the additive statistics of a model."""

START = 0.1
"""Standard deviation of the numbers that a row begins with."""

BOOKKEEPING = ("keys", "seen", "used", "lately", "clock", "rows", "settings")
"""The buffers of a table. They change when counts are absorbed and at no other time."""


class Lookup(NamedTuple):
    """The rows in use, sorted by key, and the contents of `keys` and `seen` they were found from."""

    keys: Tensor
    usable: Tensor
    writes: tuple[int, int]
    sorted_keys: Tensor
    rows: Tensor


class IdTable(nn.Embedding):
    """Embeddings of ids, one row each without collisions, in a table of fixed capacity.

    Ids are 64-bit keys (`Encoder`); key 0 is a missing id. Row 0 stands for every id without a row of its own.
    Participants count the keys of the rows they are about to learn (`count`). The counts of all participants are
    summed, and `absorb_ids` derives the new table from the old one and the sum:

        seen[id] += n                            an id is used once seen[id] >= after
        a new id takes a free row, else the row of the id unused for longest
        an id not seen within the last `unused` rows loses its row

    Ties are broken by count and key, so the table is a function of the sums and is equal on every participant, whatever
    the split of the rows. A row begins at numbers that are a function of its key. The first `plain` of them begin at 0.

    Rows merge by how often each participant saw the id since the last merge (`merged_by_count`). With anchor a,
    participant i's weights w_i and count n_i of an id:

        row = a + sum_i n_i / n (w_i - a)        n = sum_i n_i

    Each participant scales its own difference, and the differences are added by the rule "sum".

    Monolith (Liu et al. 2022, arXiv 2209.07663), sections 3.1 and 3.2.

    Args:
        capacity: ids that can have a row.
        width: numbers in a row.
        after: times an id is seen before it is used.
        unused: rows learned after which an unused id loses its row; 0: only when another id needs the row.
        plain: how many numbers of a row begin at 0.
        sparse: whether gradients hold only the rows looked up.
        averaged: whether rows merge by the plain mean instead, as they must where every step is exchanged.

    Shapes:
        keys (B,) int64 to (B, width).

    Example:
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
        if not len(lookup.rows):
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
        if kept is not None and kept.keys.device == self.keys.device:
            if torch.equal(kept.keys, self.keys) and torch.equal(kept.usable, usable):
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
        """Note how often each row is seen in the increment at hand, for `share`."""
        ids, counts = torch.unique(self.rows_of(keys[keys != 0]), return_counts=True)
        self.own = ids, counts, len(keys)

    @torch.no_grad()
    def share(self, anchor: Tensor) -> None:
        """Scale what was learned since `anchor` by this participant's share of the occurrences of each id.

        An id that no participant was about to learn, as of remembered rows, is shared by the rows of each.
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


def is_id_count(name: str) -> bool:
    """Whether an observed entry counts ids: such entries are joined, all others are added.

    >>> is_id_count("model.tables.0.admitted"), is_id_count("model.moments.sums")
    (True, False)
    """
    return name.endswith(ADMITTED)


def count_ids(tables: Mapping[str, IdTable], keys: Tensor) -> dict[str, Tensor]:
    """The counts of ids in columns of keys (B, K), by the names of the K tables, as a model's `observe` returns them."""
    return {f"{name}{ADMITTED}": table.count(keys[:, place]) for place, (name, table) in enumerate(tables.items())}


def retracted(counts: Tensor) -> Tensor:
    """The counts of rows that were not learned after all, to be absorbed.

    >>> retracted(torch.tensor([[0, 3], [5, 2]])).tolist()
    [[0, -3], [5, -2]]
    """
    return counts * torch.tensor([1, -1])


def kept_in_id_tables(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the entries that no learning changes: the bookkeeping of all tables.

    >>> table = IdTable(1, 1)
    >>> kept_in_id_tables({f"ids.{name}": value for name, value in table.state_dict().items()})[:2]
    ['ids.keys', 'ids.seen']
    """
    tables = [name.removesuffix(".lately") for name in weights if name.endswith(".lately")]
    return [f"{table}.{name}" for table in tables if f"{table}.settings" in weights for name in BOOKKEEPING]


@torch.no_grad()
def absorb_ids(weights: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the counts of all participants into the tables among `weights`, in place.

    It is a pure function of both, so a server without a model makes the same tables as its clients.

    Returns:
        The rows (n,) that begin again, by the name of the table's weight.
    """
    changed = {}
    for name, counts in observed.items():
        if is_id_count(name):
            table = name.removesuffix(ADMITTED)
            parts = {part: weights[f"{table}.{part}"] for part in ("weight", *BOOKKEEPING)}
            changed[f"{table}.weight"] = _absorb(parts, counts.to(parts["keys"].device))
    return changed


def _absorb(table: Mapping[str, Tensor], told: Tensor) -> Tensor:
    keys, seen, used, clock = (table[name] for name in ("keys", "seen", "used", "clock"))
    after, unused, plain = table["settings"].tolist()
    of_rows = told[:, 0] == 0
    distinct, inverse = torch.unique(told[~of_rows, 0], return_inverse=True)
    counts = torch.zeros_like(distinct).index_add_(0, inverse, told[~of_rows, 1])
    clock += told[of_rows, 1].sum()
    retracts = bool((told[of_rows, 1] < 0).any())
    rows = _rows_among(keys, distinct)
    known = rows > 0
    seen[rows[known]] += counts[known]
    if retracts:
        return rows[:0]
    used[rows[known]] = clock
    free = (keys[1:] == 0) | ((used[1:] < clock - unused) if unused else torch.zeros_like(keys[1:], dtype=torch.bool))
    before = keys.clone()
    keys[1:].masked_fill_(free, 0)
    new, times = distinct[~known], counts[~known]
    rows[~known] = _admit(table, new, times, int(clock))
    changed = (keys != before).nonzero().flatten()
    fresh = keys[changed]
    seen[changed] = torch.where(fresh == 0, 0, seen[changed])
    table["weight"][changed] = _start(fresh, table["weight"].shape[1], plain).to(table["weight"])
    usable = seen[rows] >= after
    table["lately"].zero_()
    table["lately"].index_add_(0, torch.where(usable, rows, 0), counts)
    table["rows"].fill_(int(told[of_rows, 1].sum()))
    return changed


def _admit(table: Mapping[str, Tensor], new: Tensor, times: Tensor, clock: int) -> Tensor:
    """Give new ids rows: free ones in order, then those of the ids unused for longest; returns them, 0 for none."""
    keys, seen, used = table["keys"], table["seen"], table["used"]
    order = torch.argsort(-times, stable=True)  # `new` is sorted, so ties go by key
    free = (keys[1:] == 0).nonzero().flatten() + 1
    taken = free[: len(new)]
    if len(taken) < len(new):
        idle = ((keys[1:] != 0) & (used[1:] < clock)).nonzero().flatten() + 1
        # Ids that are not used yet go first, then by when they were seen last, then by key.
        idle = idle[torch.argsort(keys[idle], stable=True)]
        idle = idle[torch.argsort(used[idle], stable=True)]
        idle = idle[torch.argsort((seen[idle] >= table["settings"][0]).long(), stable=True)]
        taken = torch.cat([taken, idle[: len(new) - len(taken)]])
    chosen = order[: len(taken)]
    keys[taken], seen[taken], used[taken] = new[chosen], times[chosen], clock
    found = torch.zeros_like(new)
    found[chosen] = taken
    return found


def _rows_among(keys: Tensor, wanted: Tensor) -> Tensor:
    """The row that holds each of the wanted keys, 0 where none does."""
    rows = keys.nonzero().flatten()
    if not len(rows) or not len(wanted):
        return torch.zeros_like(wanted)
    sorted_keys, order = keys[rows].sort()
    place = torch.searchsorted(sorted_keys, wanted).clamp_(max=len(rows) - 1)
    return torch.where(sorted_keys[place] == wanted, rows[order][place], 0)


def _start(keys: Tensor, width: int, plain: int) -> Tensor:
    """The numbers that rows of these ids begin with, (n, width): uniform, a function of key and place; 0 without a key."""
    place = torch.arange(width, dtype=torch.int64, device=keys.device)
    mixed = keys[:, None] ^ (place * -7046029254386353131)  # splitmix64, in arithmetic that wraps
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * factor
    uniform = ((mixed >> 40) & 0xFFFFFF).double() / 2**24 - 0.5
    start = uniform * (START * 12**0.5)
    return torch.where((keys[:, None] == 0) | (place < plain), 0.0, start)
