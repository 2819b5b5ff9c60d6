"""Arrow columns to tensors: what each column means, and the rows that cannot be used."""

from __future__ import annotations

from incr_core.data.encoding._columns import is_list, parsed
from incr_core.data.encoding._encoder import Encoded, Encoder
from incr_core.data.encoding._hashing import ColumnHash, indexed, text
from incr_core.data.encoding._infer import column_kinds, find_classes
from incr_core.data.encoding._plain_rows import PlainRows, plain_category, plain_number
from incr_core.data.encoding._quarantine import BadFile, BadRow, files_table, quarantine_table, reject, whole_table
from incr_core.data.encoding._widths import list_widths

__all__ = [
    "BadFile",
    "BadRow",
    "ColumnHash",
    "Encoded",
    "Encoder",
    "PlainRows",
    "column_kinds",
    "files_table",
    "find_classes",
    "indexed",
    "is_list",
    "list_widths",
    "parsed",
    "plain_category",
    "plain_number",
    "quarantine_table",
    "reject",
    "text",
    "whole_table",
]
