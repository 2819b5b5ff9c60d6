"""Arrow columns to tensors: what each column means, and the rows that cannot be used."""

from __future__ import annotations

from incr_core.data.encoding._columns import is_list
from incr_core.data.encoding._encoder import Encoder
from incr_core.data.encoding._hashing import ColumnHash, indexed, text
from incr_core.data.encoding._infer import column_kinds, find_classes
from incr_core.data.encoding._quarantine import BadRow, quarantine_table, refuse, whole_table

__all__ = [
    "BadRow",
    "ColumnHash",
    "Encoder",
    "column_kinds",
    "find_classes",
    "indexed",
    "is_list",
    "quarantine_table",
    "refuse",
    "text",
    "whole_table",
]
