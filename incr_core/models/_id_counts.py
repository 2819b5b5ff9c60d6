"""Assignment of ids to rows: a pure function of the earlier tables and the summed counts of all participants."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from incr_core.models._id_table import BOOKKEEPING, IdTable

__all__ = ["ADMITTED", "absorb_ids", "count_ids", "id_tables_of", "is_id_count", "kept_in_id_tables", "retracted"]

ADMITTED = ".admitted"
"""Suffix of the names of id counts among the observed statistics of a model."""

START = 0.05
"""Standard deviation of the initial entries of a row."""


def is_id_count(name: str) -> bool:
    """Return whether an observed entry counts ids. Such entries are joined, and all others are added.

    >>> is_id_count("model.tables.0.admitted"), is_id_count("model.moments.sums")
    (True, False)
    """
    return name.endswith(ADMITTED)


def id_tables_of(model: nn.Module) -> dict[str, IdTable]:
    """Return a model's tables of ids by name, in the order of the columns; none if it declares none.

    >>> id_tables_of(torch.nn.Linear(1, 1))
    {}
    """
    found: dict[str, IdTable] = getattr(model, "id_tables", {})
    return found


def count_ids(tables: Mapping[str, IdTable], keys: Tensor) -> dict[str, Tensor]:
    """Count the ids in each column of keys (B, K), for `observe`. The result is by the names of the K tables."""
    return {f"{name}{ADMITTED}": table.count(keys[:, place]) for place, (name, table) in enumerate(tables.items())}


def retracted(counts: Tensor) -> Tensor:
    """Negate the counts of rows that were observed but not learned. `absorb_ids` then removes them.

    >>> retracted(torch.tensor([[0, 3], [5, 2]])).tolist()
    [[0, -3], [5, -2]]
    """
    return counts * torch.tensor([1, -1])


def kept_in_id_tables(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the bookkeeping entries of all tables, which optimiser steps do not change.

    >>> table = IdTable(1, 1)
    >>> kept_in_id_tables({f"ids.{name}": value for name, value in table.state_dict().items()})[:2]
    ['ids.keys', 'ids.seen']
    """
    tables = [name.removesuffix(".lately") for name in weights if name.endswith(".lately")]
    return [f"{table}.{name}" for table in tables if f"{table}.settings" in weights for name in BOOKKEEPING]


@torch.no_grad()
def absorb_ids(weights: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Update the tables among `weights` with the counts of all participants, in place.

    The result is a pure function of both arguments, so a server without a model computes the same tables as its
    clients.

    Returns:
        The rows (n,) that were reset, by the name of the table's weight.
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
    """Assign rows to new ids: free rows in order, then rows of ids unused for longest. Returns them, 0 for no row."""
    keys, seen, used = table["keys"], table["seen"], table["used"]
    order = torch.argsort(-times, stable=True)  # `new` is sorted, so ties go by key
    free = (keys[1:] == 0).nonzero().flatten() + 1
    taken = free[: len(new)]
    if len(taken) < len(new):
        idle = ((keys[1:] != 0) & (used[1:] < clock)).nonzero().flatten() + 1
        # The order of replacement: ids below the threshold first, then by their last occurrence, then by key.
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
    """The row of each wanted key, 0 for keys without a row."""
    rows = keys.nonzero().flatten()
    if not len(rows) or not len(wanted):
        return torch.zeros_like(wanted)
    sorted_keys, order = keys[rows].sort()
    place = torch.searchsorted(sorted_keys, wanted).clamp_(max=len(rows) - 1)
    return torch.where(sorted_keys[place] == wanted, rows[order][place], 0)


def _start(keys: Tensor, width: int, plain: int) -> Tensor:
    """Initial rows, (n, width): uniform numbers that are a function of key and place; 0 without a key."""
    place = torch.arange(width, dtype=torch.int64, device=keys.device)
    mixed = keys[:, None] ^ (place * -7046029254386353131)  # splitmix64, in arithmetic that wraps
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * factor
    uniform = ((mixed >> 40) & 0xFFFFFF).double() / 2**24 - 0.5
    start = uniform * (START * 12**0.5)
    return torch.where((keys[:, None] == 0) | (place < plain), 0.0, start)
