"""Rows in the order of their times, cut into increments: what is predicted and what is learned when."""

from __future__ import annotations

from incr_core.data.timeline._keys import Learned
from incr_core.data.timeline._partition import Blocks, ByColumn, ByHash, Partition, owners
from incr_core.data.timeline._standing import Standing
from incr_core.data.timeline._stream import KEY_WINDOW, MAX_LEAP, Increment, Stream
from incr_core.data.timeline._timeline import Tick
from incr_core.data.timeline._unseen import EncodedRows, columns_asked, encode_file, encode_table

__all__ = [
    "KEY_WINDOW",
    "MAX_LEAP",
    "Blocks",
    "ByColumn",
    "ByHash",
    "EncodedRows",
    "Increment",
    "Learned",
    "Partition",
    "Standing",
    "Stream",
    "Tick",
    "columns_asked",
    "encode_file",
    "encode_table",
    "owners",
]
