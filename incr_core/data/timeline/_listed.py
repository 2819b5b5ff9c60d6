"""A partition that a file lists: the owner of each row, whatever rule chose it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from incr_core.data._row_ids import OFFSET_BITS
from incr_core.data.timeline._drawn import Marks, Numbered
from incr_core.errors import StreamError

__all__ = ["ByList"]

Codes = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class ByList(Numbered):
    """The rows that a Parquet file lists for owner `index` of `count`.

    The file has columns `row`, the id of a row, and `client`, the number of its owner. Processes that read it share
    one copy each; no row of the data is copied.

    Args:
        index: The owner, from 0.
        count: The number of owners.
        path: The file.
        digest: SHA-256 of the file, so that a run does not continue with another list.

    Raises:
        StreamError: A row is not listed.
    """

    index: int
    count: int
    path: str
    digest: str

    @property
    def columns(self) -> list[str]:
        """The columns needed to determine the owner of a row: none."""
        return []

    def read(self) -> tuple[Codes, Codes]:
        """Read the list: the ids of rows, sorted, and their owners, (rows,) each."""
        return _listed(self.path, self.digest)

    def marks(self, table: pa.Table, ids: Tensor | np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> Marks:
        """Return the marks of the table's rows, the same for all owners."""
        rows, owners = self.read()
        wanted = np.asarray(ids)
        places = np.searchsorted(rows, wanted)
        found = places < len(rows)
        found[found] = rows[places[found]] == wanted[found]
        if not found.all():
            first = int(wanted[~found][0])
            fragment, offset = first >> OFFSET_BITS, first & ((1 << OFFSET_BITS) - 1)
            raise StreamError(
                f"federated.clients: {self.path}: expected a client for every row, got none for row {offset} of file "
                f"{fragment} of the stream; deal the rows again, and choose another --out"
            )
        return range(self.count), owners[places]


@lru_cache(maxsize=4)
def _listed(path: str, digest: str) -> tuple[Codes, Codes]:
    table = pq.read_table(path, columns=["row", "client"])
    rows, owners = (table[name].to_numpy().astype(np.int64) for name in ("row", "client"))
    order = np.argsort(rows, kind="stable")
    return rows[order], owners[order]
