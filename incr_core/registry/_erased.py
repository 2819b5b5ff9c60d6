"""Addresses of the rows erased from a run, in DIR/erased/*.parquet, so that reviews do not read them again.

During an erasure they are in DIR/erasing.parquet; an interrupted erasure must be finished before the run continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from incr_core.data import OFFSET_BITS
from incr_core.errors import RunDirectoryError
from incr_core.storage import parquet_bytes, read_table, remove, storage, sync_all, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "SCHEMA",
    "add_erased",
    "begin_erasing",
    "erased",
    "erasing",
    "finish_erasing",
    "ids_of",
    "refuse_unfinished",
]

SCHEMA = pa.schema([("fragment", pa.string()), ("offset", pa.int64())])


ERASED, ERASING = "erased", "erasing.parquet"


def erased(directory: Path) -> pa.Table:
    """Return the distinct addresses of the rows erased from a run.

    Example:
        >>> erased(Path("/nowhere")).num_rows
        0
    """
    return _once([_read(directory / ERASED / f"{number}.parquet") for number in _numbers(directory)])


def erasing(directory: Path) -> pa.Table:
    """Return the addresses of the rows that an unfinished erasure deletes.

    Example:
        >>> erasing(Path("/nowhere")).num_rows
        0
    """
    return _read(directory / ERASING)


def add_erased(directory: Path, addresses: pa.Table) -> None:
    """Add addresses, in a new file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     for _ in range(2):
        ...         add_erased(Path(name), pa.table({"fragment": ["a.csv"], "offset": [7]}, schema=SCHEMA))
        ...     erased(Path(name)).to_pylist()
        [{'fragment': 'a.csv', 'offset': 7}]
    """
    new = _once([addresses]).join(erased(directory), SCHEMA.names, join_type="left anti")
    if new.num_rows:
        folder = directory / ERASED
        with storage(folder):
            folder.mkdir(exist_ok=True)
            sync_all([directory])
        write_atomically(folder / f"{max(_numbers(directory), default=0) + 1}.parquet", parquet_bytes(_once([new])))


def begin_erasing(directory: Path, addresses: pa.Table) -> None:
    """Record that these rows are being deleted, in addition to those of an interrupted erasure.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     begin_erasing(Path(name), pa.table({"fragment": ["a.csv"], "offset": [7]}, schema=SCHEMA))
        ...     try:
        ...         refuse_unfinished(Path(name))
        ...     except RunDirectoryError as error:
        ...         str(error).removeprefix(name)
        ...     finish_erasing(Path(name))
        ...     refuse_unfinished(Path(name))
        ...     erased(Path(name)).num_rows
        ': an erasure of 1 rows has begun and is not finished; run incr forget ... --rows .../erasing.parquet first'
        1
    """
    _write(directory / ERASING, [erasing(directory), addresses])


def finish_erasing(directory: Path) -> None:
    """Record that the rows are deleted."""
    add_erased(directory, erasing(directory))
    remove(directory / ERASING)


def refuse_unfinished(directory: Path) -> None:
    """Raise RunDirectoryError if an erasure was interrupted, because new states would contain its rows again."""
    if rows := erasing(directory).num_rows:
        raise RunDirectoryError(
            f"{directory}: an erasure of {rows:,} rows has begun and is not finished; run incr forget {directory} "
            f"--rows {directory / ERASING} first"
        )


def _read(path: Path) -> pa.Table:
    try:
        return read_table(path.name, path.read_bytes())
    except FileNotFoundError:
        return SCHEMA.empty_table()


def _write(path: Path, tables: Sequence[pa.Table]) -> None:
    write_atomically(path, parquet_bytes(_once(tables)))


def _once(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the distinct addresses, sorted."""
    every = pa.concat_tables([SCHEMA.empty_table(), *(table.select(SCHEMA.names).cast(SCHEMA) for table in tables)])
    once = every.group_by(SCHEMA.names).aggregate([]).sort_by([(name, "ascending") for name in SCHEMA.names])
    return once.select(SCHEMA.names)


def _numbers(directory: Path) -> list[int]:
    """Return the numbers of the files with addresses."""
    return sorted(int(file.stem) for file in (directory / ERASED).glob("*.parquet") if file.stem.isdigit())


def ids_of(addresses: pa.Table, names: Sequence[str]) -> Tensor:
    """Return row ids (n,), given the fragments' `names` by number, without unknown fragments and bad offsets.

    Example:
        >>> ids_of(pa.table({"fragment": ["b", "c"], "offset": [3, 3]}), ["a", "b"]).tolist() == [(1 << 40) + 3]
        True
    """
    import torch

    numbers = pc.index_in(addresses["fragment"], pa.array(names, pa.string()))
    known = addresses.append_column("number", numbers).filter(pc.is_valid(numbers))
    number, offset = (known[name].to_numpy().astype(np.int64) for name in ("number", "offset"))
    # Any other offset would be the id of a row of another fragment.
    inside = (offset >= 0) & (offset < 1 << OFFSET_BITS)
    return torch.from_numpy(((number << OFFSET_BITS) + offset)[inside])
