"""Quarantine: unusable rows and files, each with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import pyarrow as pa
from torch import Tensor

from incr_core.data._row_ids import fragment_of, offset_of
from incr_core.errors import BadRows
from incr_core.shown import shown

__all__ = ["BadFile", "BadRow", "files_table", "quarantine_table", "reject", "whole_table"]

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("fragment", pa.string()),
        ("offset", pa.int64()),
        ("column", pa.string()),
        ("reason", pa.string()),
        ("value", pa.string()),
        ("fingerprint", pa.string()),  # of a file that is unusable as a whole
    ]
)


@dataclass(frozen=True, slots=True)
class BadRow:
    """An unusable row, with its first fault and a remedy besides correcting it.

    Example:
        >>> BadRow(7, "day.csv", 7, "distance", "float", "text", "n/a").reason
        'expected float, got text'
    """

    row: int
    fragment: str
    offset: int
    column: str
    expected: str
    got: str
    value: str
    remedy: str = ""

    @property
    def reason(self) -> str:
        """Description of the fault."""
        return f"expected {self.expected}, got {self.got}"


@dataclass(frozen=True, slots=True)
class BadFile:
    """An unusable file.

    Attributes:
        fragment: The file.
        reason: The reason.
        fingerprint: Fingerprint of the file when it was read, "" if it cannot be opened. A file whose fingerprint has
            changed is read again.
        rows: Number of its rows that were delivered before the fault was found in a later chunk. They stay valid, and
            only the rest is unusable.

    Example:
        >>> BadFile("day.csv", "expected a whole csv file", "12:e4a6a0577479b2b4").rows
        0
    """

    fragment: str
    reason: str
    fingerprint: str
    rows: int = 0


def reject(bad: Sequence[BadRow], total: int, section: str = "stream.features") -> NoReturn:
    """Raise `BadRows` for the bad rows of one file of `total` rows.

    Example:
        >>> reject([BadRow(7, "day.csv", 7, "distance", "float", "text", "n/a")], 512)
        Traceback (most recent call last):
        ...
        incr_core.errors.BadRows: stream.features.distance: expected float, 1 of 512 rows in day.csv are text ("n/a");
        fix them or set on_bad_row = "quarantine"
    """
    kinds = Counter((row.column, row.expected, row.got) for row in bad)
    (column, expected, got), count = kinds.most_common(1)[0]
    alike = [row for row in bad if (row.column, row.expected, row.got) == (column, expected, got)]
    examples = ", ".join(f'"{shown(value, 60)}"' for value in list(dict.fromkeys(row.value for row in alike))[:3])
    others = sorted({name for name, _, _ in kinds} - {column})
    more = f"; {len(bad) - count} more rows are bad" if len(bad) > count else ""
    more += f" (columns {', '.join(others)})" if others else ""
    remedy = f"; {alike[0].remedy}" if alike[0].remedy else ""
    raise BadRows(
        f"{section}.{column}: expected {expected}, {count} of {total} rows in {alike[0].fragment} are {got} "
        f'({examples}){more}; fix them or set on_bad_row = "quarantine"{remedy}'
    )


def quarantine_table(bad: Sequence[BadRow]) -> pa.Table:
    """Return bad rows as a quarantine table.

    Example:
        >>> quarantine_table([]).column_names
        ['row', 'fragment', 'offset', 'column', 'reason', 'value', 'fingerprint']
    """
    return pa.table({name: [getattr(row, name, None) for row in bad] for name in SCHEMA.names}, schema=SCHEMA)


def files_table(bad: Sequence[BadFile]) -> pa.Table:
    """Return bad files as a quarantine table: one row each, without a row id.

    The column `offset` is the first unusable row, or null if all are.

    Example:
        >>> files_table([BadFile("day.csv", "expected a whole csv file", "12:e4a6a057")]).to_pylist()[0]["fingerprint"]
        '12:e4a6a057'
    """
    entries = [
        {
            "fragment": file.fragment,
            "offset": file.rows or None,
            "reason": file.reason,
            "fingerprint": file.fingerprint,
        }
        for file in bad
    ]
    return pa.Table.from_pylist(entries, schema=SCHEMA)


def whole_table(rows: Tensor, fragments: Sequence[str], reason: str) -> pa.Table:
    """Return rows (n,) of a skipped increment as a quarantine table, without a bad value.

    Example:
        >>> import torch
        >>> whole_table(torch.tensor([7]), ["day.csv"], "the loss is nan").to_pylist()[0]["reason"]
        'the loss is nan'
    """
    numbers, place = np.unique(fragment_of(rows).numpy(), return_inverse=True)
    names = pa.array([fragments[number] for number in numbers.tolist()], pa.string())
    nothing = pa.nulls(len(rows), pa.string())
    columns = [
        pa.array(rows.numpy()),
        names.take(pa.array(place.reshape(-1))),
        pa.array(offset_of(rows).numpy()),
        nothing,
        pa.array([reason]).take(pa.array(np.zeros(len(rows), dtype=np.int64))),
        nothing,
        nothing,
    ]
    return pa.table(columns, schema=SCHEMA)
