"""Rows in the order of their times, cut into increments: what is predicted and what is learned when.

The path from a file to a batch, in six ideas, each made of the one before:

- A *source* (`data/sources`) is where rows are: files, or the tables of a Python function.
- A *fragment* is one file or table of it, by its number, or the rows appended to a file.
- A *chunk* is consecutive rows of a fragment, encoded: the owned ones as tensors, the times of all.
- A *block* is rows sorted together: those of all fragments that overlap in time, or, where rows come as they lie, one
  chunk. The *live* blocks are those in memory.
- An *increment* is two cuts through the live blocks: the rows that arrive, and the labels that become known.
- A *batch* is the tensors of its rows to predict, or to learn.

`Stream` takes the options of all of it and gives increments. A `Partition` says which rows one owner gets, a cursor
where to resume, `Standing` how far a cursor has come with every row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from incr_core._util import exported

if TYPE_CHECKING:
    from incr_core.data.timeline._keys import Learned
    from incr_core.data.timeline._partition import Blocks, ByColumn, ByDraw, ByHash, ByOwners, ByTime, Partition, owners
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
