"""Reading rows again by their addresses, encoded as when they were learned.

Without rates, a row's features are its own columns, so only the row groups with these rows are read. A rate depends on
labels known before its row, so with rates the stream is loaded again from the beginning up to the last of the rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from incr_core.batch import Batch, cat
from incr_core.data._row_ids import OFFSET_BITS, fragment_of, offset_of
from incr_core.data.encoding import Encoder
from incr_core.data.sources import Source
from incr_core.data.timeline._loader import Loader, overlapping

__all__ = ["by_address", "by_replay", "in_order"]


def by_address(source: Source, encoder: Encoder, row_ids: Tensor) -> list[Batch]:
    """Return the labelled rows with these ids (n,), in a batch per fragment, without rows of fragments that no longer
    exist.
    """
    found: list[Batch] = []
    numbers, gone = fragment_of(row_ids), source.gone()
    asked = set(numbers.tolist()) - gone
    for fragment in source.fragments(skip=(frozenset(range(len(source.names))) - asked) | gone):
        mine = numbers == fragment.file
        if fragment.start or fragment.stop is not None:
            offsets = offset_of(row_ids)
            mine &= (offsets >= fragment.start) & (offsets < (fragment.stop or 1 << OFFSET_BITS))
        if mine.any():
            ids = row_ids[mine]
            table = fragment.take(encoder.columns, offset_of(ids).numpy())
            found.append(encoder.encode(table, ids, fragment.name).batch)
        if fragment.number == max(asked, default=0) and not source.appended:  # a Python source may be endless
            break
    return found


def by_replay(source: Source, loader: Loader, row_ids: Tensor, cursor: dict[str, Any]) -> list[Batch]:
    """Return the same rows with their rates.

    Args:
        source: The source of the rows.
        loader: A loader that has read nothing yet; it skips bad files, which were reported when their rows were due.
        row_ids: The ids of the rows (n,).
        cursor: The cursor of the last increment, which records the files found late.
    """
    found: list[Batch] = []
    left = len(row_ids)
    chunks = loader.chunks
    chunks.floors = {int(number): floor for number, floor in cursor["floors"].items()}
    fragments = source.fragments(
        chunks.predict_at,
        skip=source.gone()
        | frozenset(range(len(cursor["fragments"]), len(source.names)))  # found since
        | {int(number) for number, (_, rows) in cursor.get("rejected", {}).items() if not rows},
        floors=chunks.floors,
        origin=cursor.get("origin"),
        leap=chunks.leap,
    )
    for members in overlapping(fragments, True):
        for block, _ in loader.blocks(members):
            assert block.batch.row_ids is not None
            place = torch.isin(block.batch.row_ids, row_ids).nonzero().flatten()
            if len(place):
                found.append(block.batch.take(place))
                left -= len(place)
        if not left:
            break
    return found


def in_order(found: list[Batch]) -> Batch | None:
    """Return one batch in the order of row ids; None without rows."""
    if not found:
        return None
    batch = cat(found)
    assert batch.row_ids is not None
    return batch.take(batch.row_ids.argsort())
