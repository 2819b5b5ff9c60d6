"""Read rows back by their addresses, encoded as they were when they were learned.

Without rates a row's features are its own columns: only the row groups that hold the rows asked for are read. A rate is
made of labels known before its row, so with rates the stream is loaded again from its beginning up to the last of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from incr_core.batch import Batch, cat
from incr_core.data._row_ids import OFFSET_BITS, fragment_of, offset_of
from incr_core.data.encoding import Encoder
from incr_core.data.rates import History
from incr_core.data.sources import Source
from incr_core.data.timeline._keys import Learned
from incr_core.data.timeline._loader import Loader, Past, together

__all__ = ["by_address", "by_replay", "in_order"]


def by_address(source: Source, encoder: Encoder, rows: Tensor) -> list[Batch]:
    """The labelled rows with these ids (n,), a batch a fragment; of fragments that are gone, none."""
    found: list[Batch] = []
    numbers, gone = fragment_of(rows), source.gone()
    asked = set(numbers.tolist()) - gone
    for fragment in source.fragments(skip=(frozenset(range(len(source.names))) - asked) | gone):
        mine = numbers == fragment.file
        if fragment.start or fragment.stop is not None:
            offsets = offset_of(rows)
            mine &= (offsets >= fragment.start) & (offsets < (fragment.stop or 1 << OFFSET_BITS))
        if mine.any():
            ids = rows[mine]
            table = fragment.take(encoder.columns, offset_of(ids).numpy())
            found.append(encoder.encode(table, ids, fragment.name).batch)
        if fragment.number == max(asked, default=0) and not source.pieces:  # a source of parts may have no end
            break
    return found


def by_replay(
    source: Source, loader: Loader, rows: Tensor, cursor: dict[str, Any], learned: Learned | None = None
) -> list[Batch]:
    """The same, with their rates; cursor: of the increment last given out, which knows what was found late.

    learned: no keys yet, where rows have them: what came twice enters rates once.
    """
    found: list[Batch] = []
    left, past = len(rows), Past(History(loader.rates), learned)
    loader.floors = {int(number): floor for number, floor in cursor["floors"].items()}
    if loader.on_bad_file is not None:
        loader.on_bad_file = lambda fragment, rows, fault: None  # it was told when its rows were to be learned
    fragments = source.fragments(
        loader.predict_at,
        skip=source.gone()
        | frozenset(range(len(cursor["fragments"]), len(source.names)))  # found since
        | {int(number) for number, (_, rows) in cursor.get("refused", {}).items() if not rows},
        floors=loader.floors,
        origin=cursor.get("origin"),
        leap=loader.leap,
    )
    for members in together(fragments, True):
        for group, following, _ in loader.groups(members, past):
            assert group.batch.rows is not None
            place = torch.isin(group.batch.rows, rows).nonzero().flatten()
            if len(place):
                found.append(group.batch.take(place))
                left -= len(place)
            past = following
        if not left:
            break
    return found


def in_order(found: list[Batch]) -> Batch | None:
    """One batch in the order of row ids, whatever order they were read in; None of none."""
    if not found:
        return None
    batch = cat(found)
    assert batch.rows is not None
    return batch.take(batch.rows.argsort())
