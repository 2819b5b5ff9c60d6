"""Bytes to increments: sources hold rows, an encoding makes tensors of them, a timeline says when each is due."""

from __future__ import annotations

from incr_core.data._row_ids import OFFSET_BITS, fragment_of, offset_of, ranges, row_ids
from incr_core.data._row_set import RowSet

__all__ = ["OFFSET_BITS", "RowSet", "fragment_of", "offset_of", "ranges", "row_ids"]
