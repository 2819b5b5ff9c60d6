"""Versions in which given rows were learned, by the ledger."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from incr_core.registry import SCHEMA
from incr_core.registry.ledger import flat

__all__ = ["learned_rows"]


def learned_rows(ledger: pa.Table, addresses: pa.Table) -> pa.Table:
    """Return the learned rows among these addresses.

    Args:
        ledger: The ledger of a run.
        addresses: Columns `fragment` and `offset`.

    Returns:
        Columns `fragment`, `offset`, and `version`, the version that learned the row.
    """
    found = [SCHEMA.append(pa.field("version", pa.int64())).empty_table()]
    if not ledger.num_rows:
        return found[0]
    entry, start, stop = flat(ledger)
    fragments, versions = np.array(ledger["fragment"].to_pylist()), ledger["version"].to_numpy()
    for name in addresses["fragment"].unique().to_pylist():
        mine = np.flatnonzero(fragments[entry] == name)
        if not len(mine):
            continue
        mine = mine[start[mine].argsort()]
        offsets = np.unique(addresses.filter(pc.equal(addresses["fragment"], name))["offset"].to_numpy())
        place = mine[np.searchsorted(start[mine], offsets, side="right") - 1]
        inside = (start[place] <= offsets) & (offsets < stop[place])
        columns = [[name] * int(inside.sum()), offsets[inside], versions[entry[place[inside]]]]
        found.append(pa.table(columns, schema=found[0].schema))
    return pa.concat_tables(found)
