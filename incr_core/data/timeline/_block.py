"""A block: rows sorted together, in order of arrival and in order of label time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from incr_core.batch import Batch, cat
from incr_core.data.encoding import BadRow
from incr_core.data.rates import Questions
from incr_core.data.sources import Fragment
from incr_core.data.timeline._chunk import Chunk, Ints
from incr_core.data.times import NEVER

__all__ = ["Block", "joined_chunks", "sorted_chunks"]


@dataclass(slots=True)
class Block:
    """Rows of fragments whose times overlap, or a chunk of one fragment, in order of arrival.

    The whole stream and each owner of a part of it have the same blocks, with the same rows in the same order; only the
    batch is restricted to the owned rows.

    Attributes:
        fragments: The numbers of the fragments.
        first: The earliest time.
        names: The fragment of each run of rows.
        ends: The end of each run of rows.
        times: The arrival times of the n rows, (n,).
        labels: The label times that are known, ascending.
        batch: The good rows in order of arrival.
        at: Their places among the n rows.
        arrive: Their arrival times.
        order: The rows of the batch that have a label time, by label time.
        due: Those label times.
        never: The places of the rows whose labels never come.
        last_known: The time at which the last outcome of a row becomes known, its label or that of a rate.
        bad: As in a chunk.
        bad_at: As in a chunk.
        duplicates: As in a chunk.
        duplicates_at: As in a chunk.
        start: The place of the first row in the stream.
    """

    fragments: list[int]
    first: int
    names: list[str]
    ends: Ints
    times: Ints
    labels: Ints
    batch: Batch
    at: Ints
    arrive: Ints
    order: Ints
    due: Ints
    never: Ints
    last_known: int
    bad: list[BadRow]
    bad_at: Ints
    duplicates: Tensor
    duplicates_at: Ints
    start: int = 0

    @classmethod
    def of(cls, fragments: Sequence[Fragment], chunk: Chunk, delayed: bool) -> Block:
        """Return the block of a chunk of one or more fragments; `delayed` says whether labels have their own times."""
        at = chunk.good
        times, known = (values if len(at) == len(values) else values[at] for values in (chunk.times, chunk.known))
        order = never = labels = np.zeros(0, dtype=np.int64)
        if delayed:
            assert chunk.batch.row_ids is not None
            order = np.lexsort((chunk.batch.row_ids.numpy(), times, known))[: np.count_nonzero(known < NEVER)]
            never = at[known == NEVER]
            labels = np.sort(chunk.known[chunk.known < NEVER])
        first = fragments[0].first
        return cls(
            [fragment.number for fragment in fragments],
            first,
            [fragments[index].name for index in chunk.runs],
            chunk.ends,
            chunk.times,
            labels,
            chunk.batch,
            at,
            times,
            order,
            known[order],
            never,
            max(int(labels[-1]) if len(labels) else first, chunk.questions.last_known),
            chunk.bad,
            chunk.bad_at,
            chunk.duplicates,
            chunk.duplicates_at,
        )

    def __len__(self) -> int:
        return len(self.times)

    @property
    def stop(self) -> int:
        """The place in the stream after the last row."""
        return self.start + len(self.times)

    @property
    def last_label(self) -> int:
        """The latest label time."""
        return int(self.labels[-1]) if len(self.labels) else self.first


def joined_chunks(chunks: Sequence[Chunk]) -> Chunk:
    """Join the chunks of one fragment, in order."""
    starts = np.cumsum([0, *(len(chunk.times) for chunk in chunks)])
    places = list(zip(chunks, starts[:-1], strict=True))
    keys = [chunk.keys for chunk in chunks if chunk.keys is not None]
    return Chunk(
        np.concatenate([chunk.times for chunk in chunks]),
        np.concatenate([chunk.known for chunk in chunks]),
        torch.cat([chunk.row_ids for chunk in chunks]),
        np.concatenate([chunk.good + start for chunk, start in places]),
        cat([chunk.batch for chunk in chunks]),
        Questions.joined([chunk.questions for chunk in chunks]),
        [row for chunk in chunks for row in chunk.bad],
        np.concatenate([chunk.bad_at + start for chunk, start in places]),
        np.zeros(1, dtype=np.int64),
        starts[-1:],
        np.concatenate(keys) if keys else None,
        # A chunk with unknown kinds takes them from the others.
        held={name: held for chunk in chunks for name, held in chunk.held.items() if held is not None},
        zoned={name: zoned for chunk in chunks for name, zoned in chunk.zoned.items() if zoned is not None},
    )


def sorted_chunks(chunks: Sequence[Chunk], *, by_fragment: bool = False, first_before: int | None = None) -> Chunk:
    """Join all rows of several chunks, sorted by time, and by id among equal times.

    Args:
        chunks: The chunks.
        by_fragment: Whether to keep the order of the chunks and sort by time only within each.
        first_before: With `by_fragment`, a time: all rows before it come first.
    """
    rank = np.concatenate([np.full(len(chunk.times), index) for index, chunk in enumerate(chunks)])
    ids = torch.cat([chunk.row_ids for chunk in chunks])
    times = np.concatenate([chunk.times for chunk in chunks])
    order = [ids.numpy(), times]
    if by_fragment:
        order.append(rank)
        if first_before is not None:
            order.append(times >= first_before)
    sort = np.lexsort(order)
    good = np.concatenate([np.isin(np.arange(len(chunk.times)), chunk.good) for chunk in chunks])
    # The places of the sorted good rows among the good rows in loading order.
    picks = (np.cumsum(good) - 1)[sort[good[sort]]]
    bad = [row for chunk in chunks for row in chunk.bad]
    starts = np.cumsum([0, *(len(chunk.times) for chunk in chunks)])[:-1]
    loaded_at = np.concatenate([chunk.bad_at + start for chunk, start in zip(chunks, starts, strict=True)])
    bad_at = np.argsort(sort)[loaded_at]
    by_place = np.argsort(bad_at)
    rank = rank[sort]
    ends = np.flatnonzero(np.append(rank[1:] != rank[:-1], True)) + 1 if len(rank) else rank
    keys = [chunk.keys for chunk in chunks if chunk.keys is not None]
    return Chunk(
        times[sort],
        np.concatenate([chunk.known for chunk in chunks])[sort],
        ids[torch.from_numpy(sort)],
        np.flatnonzero(good[sort]),
        cat([chunk.batch for chunk in chunks]).take(torch.from_numpy(picks)),
        Questions.joined([chunk.questions for chunk in chunks]).take(picks),
        [bad[index] for index in by_place],
        bad_at[by_place],
        rank[ends - 1],
        ends,
        np.concatenate(keys)[picks] if keys else None,
    )
