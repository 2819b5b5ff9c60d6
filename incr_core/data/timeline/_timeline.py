"""The timeline: blocks of rows in, increments out, in an order that depends only on the data.

An increment is two cuts: the rows up to a *place* in the order of arrival arrive, and the labels due before a *time*
become known. Three rules determine the cuts (see `_next`): ticks of a clock, numbers of rows, and files. No cut
releases a label that is due at or after the time of a row that arrives later, so no prediction can depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from incr_core.batch import Batch, cat
from incr_core.data import times as clock
from incr_core.data.encoding import BadFile, BadRow
from incr_core.data.rates import History, with_features
from incr_core.data.sources import Source
from incr_core.data.timeline._keys import Learned
from incr_core.data.timeline._live_blocks import LiveBlocks
from incr_core.data.timeline._loader import Loader
from incr_core.data.timeline._partition import Blocks

__all__ = ["Increment", "Tick", "Timeline"]


@dataclass(frozen=True, slots=True)
class Tick:
    """One step of the timeline, the same for every owner of a part of the stream.

    Attributes:
        number: The number of the step.
        name: Its name.
        warm: Whether it is the warm start, which is learned but not predicted for the metrics.
        time: The end of the step, in microseconds.
    """

    number: int
    name: str
    warm: bool = False
    time: int = 0


@dataclass(slots=True)
class Increment:
    """The rows and labels of one tick.

    Attributes:
        tick: The tick, the same for every owner of a part of the stream.
        arriving: The rows to predict now; their targets may be used only to test the predictions later.
        labelled: The rows to learn now, with their features as of their prediction time.
        revealed: All rows whose labels became known now. `labelled` is this owner's part of them; if increments are
            distributed in blocks, the replica that learns a row may differ from the one that predicted it.
        duplicates: The ids (n,) of rows that were learned before, by their keys.
        bad: The rows found so far that cannot be used.
        bad_files: The files found so far that cannot be used.
        never: The number of arriving rows without a label time, which are never learned.
        cursor: The position after this increment, as JSON.
        learned: The keys at this position, if rows have keys.
        known: The outcomes known at the end of the increment.
    """

    tick: Tick
    arriving: Batch
    labelled: Batch
    revealed: Batch
    duplicates: Tensor
    bad: list[BadRow]
    bad_files: list[BadFile]
    never: int
    cursor: dict[str, Any]
    known: History
    learned: Learned | None = None

    def history(self) -> pa.Table:
        """Return the outcomes that rates of later rows can use, in a table small enough to save with a version."""
        return self.known.since(self.tick.time).before(self.tick.time).table()


@dataclass(slots=True)
class _Cut:
    name: str
    place: int
    time: int
    warm: bool = False


class Timeline:
    """The increments of a source, starting at a cursor.

    Args:
        source: The source of the rows.
        loader: The conversion of fragments to blocks.
        every: The microseconds of a tick, if increments are ticks.
        rows: The number of rows of an increment, if increments are numbers of rows; without both, they are fragments.
        warm: The end of the warm start, as a time.
        warm_rows: The end of the warm start, as a number of rows.
        share: The replica whose rows are returned, if increments are distributed in blocks.
        cursor: The cursor of the increment before the first; None at the beginning.
    """

    def __init__(
        self,
        source: Source,
        loader: Loader,
        *,
        every: int | None,
        rows: int | None,
        warm: int | None,
        warm_rows: int | None,
        share: Blocks | None,
        cursor: dict[str, Any] | None,
    ) -> None:
        self.loader, self.share = loader, share
        self.every, self.rows, self.warm, self.warm_rows = every, rows, warm, warm_rows
        self._resumed = bool(cursor)
        cursor = cursor or {}
        self.number: int = cursor.get("number", 0)
        self.place: int = cursor.get("place", 0)
        self.time: int | None = cursor.get("time")
        # The numbers of rows to predict and to learn that were distributed to all replicas so far.
        self._dealt: list[int] = cursor.get("dealt", [0, 0])
        self._blocks = LiveBlocks(source, loader, cursor)

    def __iter__(self) -> Iterator[Increment]:
        with closing(self._blocks):
            if self._resumed:
                self._blocks.load_again(self.place)
                self._blocks.drop(self.place, self.time)
            else:
                self._blocks.load_any()
                if self.warm is not None or self.warm_rows is not None:
                    yield self._cut(self._warm_start())
            while (cut := self._next()) is not None:
                yield self._cut(cut)
            if self._blocks.bad_files:  # after the last row
                yield self._cut(_Cut("bad files", self.place, self.time or 0))

    # -- where the cuts are

    def _warm_start(self) -> _Cut:
        if self.warm is not None:
            while (coming := self._blocks.coming) is not None and coming < self.warm:
                self._blocks.load()
            place = sum(int(np.count_nonzero(block.times < self.warm)) for block in self._blocks.live)
            return _Cut("warm start", place, self.warm, warm=True)
        assert self.warm_rows is not None
        while self._blocks.loaded < self.warm_rows and self._blocks.load():
            pass
        place = min(self.warm_rows, self._blocks.loaded)
        return _Cut("warm start", place, self._time_at(place - 1), warm=True)

    def _next(self) -> _Cut | None:
        if self.every is not None:
            return self._next_tick(self.every)
        while self._blocks.loaded <= self.place + (self.rows or 1) - 1 and self._blocks.load():
            pass
        if self._blocks.loaded == self.place:
            return self._last_labels()
        if self.rows is not None:
            stop = min(self.place + self.rows, self._blocks.loaded)
            return _Cut(f"rows {self.place}-{stop - 1}", stop, self._time_at(stop - 1))
        block = next(block for block in self._blocks.live if self.place < block.stop)
        run = int(np.searchsorted(block.ends, self.place - block.start, side="right"))
        stop = block.start + int(block.ends[run])
        time = self._time_at(stop - 1)
        # If files overlap in time, the next one may begin before this one ends.
        if stop < block.stop:
            time = min(time, self._time_at(stop))
        elif self.loader.chunks.predict_at is not None and (coming := self._blocks.coming) is not None:
            time = min(time, coming)
        return _Cut(block.names[run], stop, time)

    def _next_tick(self, every: int) -> _Cut | None:
        moments = [self._time_at(self.place)] if self.place < self._blocks.loaded else []
        if (coming := self._blocks.coming) is not None:
            moments.append(coming)
        moments += self._due()
        if not moments:
            return None
        begin = min(moments) // every * every
        end = begin + every
        while (coming := self._blocks.coming) is not None and coming < end:
            self._blocks.load()
        place = self.place
        for block in self._blocks.live:
            place = max(place, block.start + int(np.searchsorted(block.times, end)))
        return _Cut(clock.label(begin, every), place, end)

    def _last_labels(self) -> _Cut | None:
        """After the last row, return all labels still to come at once."""
        due = self._due()
        if not due:
            return None
        return _Cut("last labels", self.place, max(block.last_label for block in self._blocks.live) + 1)

    def _due(self) -> list[int]:
        """Return the next label time of each block that has one."""
        found = []
        for block in self._blocks.live:
            index = 0 if self.time is None else int(np.searchsorted(block.labels, self.time))
            if index < len(block.labels):
                found.append(int(block.labels[index]))
        return found

    def _time_at(self, place: int) -> int:
        for block in self._blocks.live:
            if block.start <= place < block.stop:
                return int(block.times[place - block.start])
        return self.time or 0

    # -- rows and labels between two cuts

    def _cut(self, cut: _Cut) -> Increment:
        arriving: list[Batch] = []
        bad: list[BadRow] = []
        duplicates = [torch.zeros(0, dtype=torch.int64)]
        never = 0
        for block in self._blocks.live:
            start, stop = self.place - block.start, cut.place - block.start
            if stop <= 0 or start >= len(block):
                continue
            first, last = np.searchsorted(block.at, (start, stop))
            if last > first:
                arriving.append(block.batch.slice(int(first), int(last)))
            if block.bad:
                first, last = np.searchsorted(block.bad_at, (start, stop))
                bad += block.bad[first:last]
            if len(block.duplicates):
                first, last = np.searchsorted(block.duplicates_at, (start, stop))
                duplicates.append(block.duplicates[first:last])
            if len(block.never):
                never += int(np.diff(np.searchsorted(block.never, (start, stop)))[0])
        arrived = self._joined(arriving)
        labelled = arrived if self.loader.chunks.label_at is None else self._labelled(cut.time)
        revealed = labelled
        bad_files = self._blocks.take_bad_files()
        if self.share is not None:
            arrived, labelled = self._deal(self.share, arrived, labelled)
            if self.share.index > 0:  # bad rows and duplicates are not distributed: the first replica reports them
                bad, bad_files, duplicates = [], [], duplicates[:1]
        number = self.number
        self.number, self.place = number + 1, cut.place
        self.time = cut.time if self.time is None else max(self.time, cut.time)
        self._blocks.drop(self.place, self.time)
        return Increment(
            Tick(number, cut.name, cut.warm, self.time),
            arrived,
            labelled,
            revealed,
            torch.cat(duplicates),
            bad,
            bad_files,
            never,
            self._blocks.cursor()
            | {"number": self.number, "place": self.place, "time": self.time, "dealt": self._dealt},
            self.loader.history,
            self._blocks.learned,
        )

    def _deal(self, share: Blocks, arrived: Batch, labelled: Batch) -> tuple[Batch, Batch]:
        """Return the replica's rows to predict and to learn; one batch if both are the same rows."""
        before = self._dealt
        self._dealt = [before[0] + len(arrived), before[1] + len(labelled)]
        mine = share.deal(arrived, before[0])
        return mine, mine if labelled is arrived else share.deal(labelled, before[1])

    def _labelled(self, time: int) -> Batch:
        slices: list[Batch] = []
        keys: list[tuple[Any, Any]] = []
        for block in self._blocks.live:
            first = 0 if self.time is None else int(np.searchsorted(block.due, self.time))
            index = block.order[first : int(np.searchsorted(block.due, time))]
            if len(index):
                slices.append(block.batch.take(torch.from_numpy(index)))
                keys.append((block.due[first : first + len(index)], block.arrive[index]))
        batch = self._joined(slices)
        if len(slices) < 2:
            return batch
        # By label time, independent of the block a row was loaded with.
        due, arrive = (np.concatenate(column) for column in zip(*keys, strict=True))
        assert batch.row_ids is not None
        return batch.take(torch.from_numpy(np.lexsort((batch.row_ids.numpy(), arrive, due))))

    def _joined(self, slices: list[Batch]) -> Batch:
        if slices:
            return cat(slices)
        empty, rates = self.loader.chunks.encoder.empty(), self.loader.chunks.rates
        return with_features(empty, np.zeros((0, 2 * len(rates)), dtype=np.float32)) if rates else empty
