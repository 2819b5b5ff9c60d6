"""Data: sources read rows, an encoding converts them to tensors, and a timeline orders them into increments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incr_core._util import exported

if TYPE_CHECKING:
    from incr_core.data._local_time import in_zone
    from incr_core.data._prepare import Prepare, raw_types
    from incr_core.data._row_ids import OFFSET_BITS, fragment_of, offset_of, ranges, row_ids
    from incr_core.data._row_set import RowSet
else:
    __getattr__, __dir__ = exported(__name__)

__all__ = [
    "OFFSET_BITS",
    "Prepare",
    "RowSet",
    "fragment_of",
    "in_zone",
    "offset_of",
    "ranges",
    "raw_types",
    "row_ids",
]
