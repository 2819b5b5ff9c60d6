"""Which rows of a run were erased: their addresses alone, in DIR/erased.parquet, so that no review reads them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from incr_core.data import OFFSET_BITS
from incr_core.storage import parquet_bytes, read_table, write_atomically

__all__ = ["SCHEMA", "add_erased", "erased", "ids_of"]

SCHEMA = pa.schema([("fragment", pa.string()), ("offset", pa.int64())])


def erased(directory: Path) -> pa.Table:
    """The addresses of the rows erased from a run, each once.

    >>> erased(Path("/nowhere")).num_rows
    0
    """
    try:
        return read_table("erased.parquet", (directory / "erased.parquet").read_bytes())
    except FileNotFoundError:
        return SCHEMA.empty_table()


def add_erased(directory: Path, addresses: pa.Table) -> None:
    """Keep more addresses.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     for _ in range(2):
    ...         add_erased(Path(name), pa.table({"fragment": ["a.csv"], "offset": [7]}, schema=SCHEMA))
    ...     erased(Path(name)).to_pylist()
    [{'fragment': 'a.csv', 'offset': 7}]
    """
    every = pa.concat_tables([erased(directory), addresses.select(SCHEMA.names).cast(SCHEMA)])
    once = every.group_by(SCHEMA.names).aggregate([]).sort_by([(name, "ascending") for name in SCHEMA.names])
    write_atomically(directory / "erased.parquet", parquet_bytes(once.select(SCHEMA.names)))


def ids_of(addresses: pa.Table, names: Sequence[str]) -> Tensor:
    """Row ids, (n,), where `names` are the fragments by number; others, and what can be no offset, are left out.

    >>> ids_of(pa.table({"fragment": ["b", "c"], "offset": [3, 3]}), ["a", "b"]).tolist() == [(1 << 40) + 3]
    True
    """
    numbers = pc.index_in(addresses["fragment"], pa.array(names, pa.string()))
    known = addresses.append_column("number", numbers).filter(pc.is_valid(numbers))
    number, offset = (known[name].to_numpy().astype(np.int64) for name in ("number", "offset"))
    # Any other offset would be the id of another fragment's row.
    inside = (offset >= 0) & (offset < 1 << OFFSET_BITS)
    return torch.from_numpy(((number << OFFSET_BITS) + offset)[inside])
