"""Files that cannot be used at all: the exceptions they raise, and a check with the same result for all owners."""

from __future__ import annotations

import pyarrow as pa

from incr_core.data import row_ids
from incr_core.data.encoding import Encoder, parsed
from incr_core.errors import ArgumentError, StreamError

__all__ = ["FAULTS", "check_encodes"]

FAULTS = (StreamError, ArgumentError)
"""The exceptions raised by a file that does not match the job."""


def check_encodes(encoder: Encoder, table: pa.Table, place: str) -> None:
    """Check that a table can be encoded, independent of which of its rows are owned.

    Owners of parts of a stream encode only their own rows, and must agree on which files are bad. Therefore all rows of
    text in numeric columns are parsed; for other columns only the types are checked.

    Raises:
        StreamError: The table cannot be encoded.

    Example:
        >>> encoder = Encoder("y", ["x"], [], objective="regression", classes=None)
        >>> check_encodes(encoder, pa.table({"x": ["a", "b"], "y": [1.0, 2.0]}), "day.csv")
        Traceback (most recent call last):
        ...
        incr_core.errors.StreamError: stream.features.x: expected float, got text ("a") in every row of day.csv; ...
    """
    probe = table.slice(0, 1)
    measured = [*encoder.numeric, *([] if encoder.classes else encoder.labels), *filter(None, [encoder.weight])]
    for name in dict.fromkeys(measured):
        column = table[name]
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            parsed(column, name, place)
            probe = probe.set_column(probe.column_names.index(name), name, pa.nulls(len(probe), kind))
    encoder.encode(probe, row_ids(0, 0, len(probe)), place)
