"""Rows in the order of their times, cut into increments: which rows are predicted and learned, and when.

The path from a file to a batch has six concepts, each built on the one before:

- A *source* (`data/sources`) contains the rows: files, or the tables of a Python function.
- A *fragment* is one file or table of the source, identified by its number, or the rows appended to a file.
- A *chunk* is a sequence of consecutive rows of a fragment, encoded: the owned rows as tensors, the times of all rows.
- A *block* is a set of rows sorted together: those of all fragments that overlap in time or, if rows keep the order of
  their files, one chunk. The *live* blocks are those in memory.
- An *increment* is two cuts through the live blocks: the rows that arrive, and the labels that become known.
- A *batch* contains the tensors of the rows to predict or to learn.

`Stream` takes all options and returns increments. A `Partition` selects the rows of one owner, a cursor says where to
resume, and `Standing` describes the progress of a cursor with every row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from incr_core._util import exported

if TYPE_CHECKING:
    from incr_core.data.timeline._keys import Learned
    from incr_core.data.timeline._partition import (
        Blocks,
        ByColumn,
        ByDraw,
        ByHash,
        ByList,
        ByOwners,
        ByTime,
        Partition,
        owners,
    )
    from incr_core.data.timeline._plain_asked import PlainAsked
    from incr_core.data.timeline._standing import Standing
    from incr_core.data.timeline._stream import KEY_WINDOW, MAX_LEAP, Increment, Stream
    from incr_core.data.timeline._timeline import Tick
    from incr_core.data.timeline._turns import Item, Transfer, Turns
    from incr_core.data.timeline._unseen import (
        EncodedRows,
        columns_asked,
        encode_file,
        encode_table,
        moments,
        outcomes_of,
    )
else:
    __getattr__, __dir__ = exported(__name__)

__all__ = [
    "KEY_WINDOW",
    "MAX_LEAP",
    "Blocks",
    "ByColumn",
    "ByDraw",
    "ByHash",
    "ByList",
    "ByOwners",
    "ByTime",
    "EncodedRows",
    "Increment",
    "Item",
    "Learned",
    "Partition",
    "PlainAsked",
    "Standing",
    "Stream",
    "Tick",
    "Transfer",
    "Turns",
    "columns_asked",
    "encode_file",
    "encode_table",
    "moments",
    "outcomes_of",
    "owners",
]
