"""Tables in memory: Arrow, pandas, dicts of arrays, batches of a torch DataLoader."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from incr_core.errors import StreamError
from incr_core.shown import shown

__all__ = ["INPUTS", "Tables", "as_table", "table_fingerprint"]

INPUTS = "inputs"
"""Name of the column for the inputs of a DataLoader's (inputs, targets)."""


class Tables:
    """The tables of a stream from Python objects, in the given order.

    A run that resumes compares the tables with those it has read: these must be unchanged, and new ones must follow.

    Args:
        given: A table, several in a list or tuple, a DataLoader, or a function that returns an iterable of tables. A
            table is pyarrow's, one with `__arrow_c_stream__` such as a pandas DataFrame, or a dict of arrays. A
            loader's inputs become the column `inputs`, of lists if a row has several numbers (of any shape, flattened),
            or the columns of a dict.
        label: Column for the targets of a DataLoader.

    Example:
        >>> [table.num_rows for table in Tables([{"x": [1.0, 2.0]}, {"x": [3.0]}], "y")()]
        [2, 1]
    """

    def __init__(self, given: Any, label: str) -> None:
        self._given, self._label = given, label
        if isinstance(given, DataLoader):
            _check_order(given)

    def __str__(self) -> str:
        return "the tables given"

    @property
    def finite(self) -> bool:
        """Whether all tables are available, so that all their labels can be inspected."""
        return not callable(self._given) or isinstance(self._given, DataLoader)

    def __call__(self) -> Iterator[pa.Table]:
        for number, given in enumerate(self._each()):
            yield as_table(given, f"part {number}", self._label)

    def _each(self) -> Iterable[Any]:
        if isinstance(self._given, list | tuple | DataLoader):
            return self._given
        if callable(self._given):
            found: Iterable[Any] = self._given()
            return found
        return [self._given]


def as_table(rows: Any, name: str, label: str | None = None) -> pa.Table:
    """Convert rows in memory to a table.

    Args:
        rows: A table of any accepted kind, inputs, or (inputs, targets).
        name: Origin of the rows, for error messages.
        label: Column for targets; None if rows are inputs only.

    Raises:
        StreamError: Arrow cannot represent the rows.

    Example:
        >>> as_table((torch.zeros(2, 3), torch.tensor([0, 1])), "here", "y").schema.names
        ['inputs', 'y']
    """
    try:
        return _converted(rows, name, label)
    except (pa.ArrowException, ValueError, TypeError, NotImplementedError, OverflowError, AttributeError) as error:
        raise StreamError(
            f"{name}: expected rows that Arrow can hold, columns of one length and each of one type, got a "
            f"{type(rows).__name__} of which it says: {shown(error, 200)}; convert it first"
        ) from error


def _converted(rows: Any, name: str, label: str | None) -> pa.Table:
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if isinstance(rows, Mapping):
        return pa.table({str(key): _column(value) for key, value in rows.items()})
    if hasattr(rows, "__arrow_c_stream__"):
        return _without_index(pa.table(rows))
    if isinstance(rows, torch.Tensor | np.ndarray) and label is None:
        return pa.table({INPUTS: _column(rows)})
    if isinstance(rows, tuple | list) and len(rows) == 2 and label is not None:
        inputs, targets = rows
        columns = inputs if isinstance(inputs, Mapping) else {INPUTS: inputs}
        return as_table({**columns, label: targets}, name)
    raise StreamError(
        f"{name}: expected a table (of pyarrow, of pandas, a dict of arrays) or (inputs, targets), got "
        f"{type(rows).__name__}; convert it first"
    )


def table_fingerprint(table: pa.Table) -> str:
    """Return the number of rows of a table and a hash of all values: ROWS:HASH, independent of the memory layout.

    Example:
        >>> table = pa.table({"x": [1.0, 2.0, 3.0]})
        >>> table_fingerprint(table) == table_fingerprint(pa.concat_tables([table[:1], table[1:]]))
        True
        >>> table_fingerprint(table) == table_fingerprint(pa.table({"x": [1.0, 2.0, 4.0]}))
        False
    """
    sink = _Hashing()
    whole = table.replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), whole.schema) as writer:
        writer.write_table(whole)
    return f"{table.num_rows}:{sink.found.hexdigest()}"


class _Hashing:
    """A file that hashes the bytes written to it."""

    def __init__(self) -> None:
        self.found = hashlib.blake2b(digest_size=8)
        self.closed = False

    def write(self, content: Any) -> int:
        self.found.update(content)
        return len(content)

    def flush(self) -> None:
        """Do nothing: there is no buffer."""

    def close(self) -> None:
        self.closed = True


def _column(value: Any) -> Any:
    """Convert an array of (B, ...) values to a column of B values, or of B lists."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.ndim > 1:
        flat = value.reshape(len(value), -1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    return value


def _without_index(table: pa.Table) -> pa.Table:
    """Return a pandas table without its index, which names rows and is not a feature."""
    metadata = (table.schema.metadata or {}).get(b"pandas")
    if metadata is None:
        return table
    index = [name for name in json.loads(metadata)["index_columns"] if isinstance(name, str)]
    return table.drop_columns([name for name in index if name in table.column_names])


def _check_order(loader: DataLoader[Any]) -> None:
    """Raise a StreamError for a loader with a random order: a run that resumes would read other rows."""
    if isinstance(loader.sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler):
        raise StreamError(
            f"stream: expected a DataLoader that gives the same rows in the same order again, got one with a "
            f"{type(loader.sampler).__name__}; make it with shuffle=False, since a learner shuffles an increment itself"
        )
