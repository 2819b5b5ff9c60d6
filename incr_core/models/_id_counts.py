"""Which id has which row: a pure function of the tables before and of counts that all participants have summed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from incr_core.models._id_table import BOOKKEEPING, IdTable

__all__ = ["ADMITTED", "absorb_ids", "count_ids", "is_id_count", "kept_in_id_tables", "retracted"]

ADMITTED = ".admitted"
"""End of the name under which counts of ids are told, beside the additive statistics of a model."""

START = 0.05
"""Standard deviation of the numbers that a row begins with."""


def is_id_count(name: str) -> bool:
    """Whether an observed entry counts ids: such entries are joined, all others are added.

    >>> is_id_count("model.tables.0.admitted"), is_id_count("model.moments.sums")
    (True, False)
    """
    return name.endswith(ADMITTED)


def count_ids(tables: Mapping[str, IdTable], keys: Tensor) -> dict[str, Tensor]:
    """The ids in columns of keys (B, K) and how often each occurs, by the names of the K tables, for `observe`."""
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
    """The numbers that rows begin with, (n, width): uniform, a function of key and place; 0 without a key."""
    place = torch.arange(width, dtype=torch.int64, device=keys.device)
    mixed = keys[:, None] ^ (place * -7046029254386353131)  # splitmix64, in arithmetic that wraps
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * factor
    uniform = ((mixed >> 40) & 0xFFFFFF).double() / 2**24 - 0.5
    start = uniform * (START * 12**0.5)
    return torch.where((keys[:, None] == 0) | (place < plain), 0.0, start)
