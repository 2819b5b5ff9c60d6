"""Encoding of Arrow columns to tensors: the meaning of each column, and unusable rows."""

from __future__ import annotations

from incr_core.data.encoding._columns import is_list, parsed
from incr_core.data.encoding._encoder import Encoded, Encoder
from incr_core.data.encoding._hashing import ColumnHash, id_key, indexed, text
from incr_core.data.encoding._infer import Columns, check_excluded, column_kinds, find_classes
from incr_core.data.encoding._kinds import ColumnKind, kind_of_column
from incr_core.data.encoding._leaks import gives_away
from incr_core.data.encoding._plain_rows import PlainRows, plain_category, plain_number
from incr_core.data.encoding._pretrained import Pretrained, pretrained_at, pretrained_sha256
from incr_core.data.encoding._quarantine import BadFile, BadRow, files_table, quarantine_table, reject, whole_table
from incr_core.data.encoding._slices import Slices, frequent_values
from incr_core.data.encoding._text import MOST_WORDS, slots_of, words_wanted
from incr_core.data.encoding._widths import list_widths

__all__ = [
    "MOST_WORDS",
    "BadFile",
    "BadRow",
    "ColumnHash",
    "ColumnKind",
    "Columns",
    "Encoded",
    "Encoder",
    "PlainRows",
    "Pretrained",
    "Slices",
    "check_excluded",
    "column_kinds",
    "files_table",
    "find_classes",
    "frequent_values",
    "gives_away",
    "id_key",
    "indexed",
    "is_list",
    "kind_of_column",
    "list_widths",
    "parsed",
    "plain_category",
    "plain_number",
    "pretrained_at",
    "pretrained_sha256",
    "quarantine_table",
    "reject",
    "slots_of",
    "text",
    "whole_table",
    "words_wanted",
]
