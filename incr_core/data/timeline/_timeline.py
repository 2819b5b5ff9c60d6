"""The timeline: groups of rows in, increments out, in an order that depends on the data alone.

An increment is two cuts. The rows up to a *place* in the order of arrival arrive, and the labels due before a *time*
are known. Three rules cut (see `_next`): ticks of a clock, numbers of rows, and files. No cut gives out a label that
is due at or after the time of a row that arrives later, so no prediction can depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from incr_core.batch import Batch, cat
from incr_core.data import times as clock
from incr_core.data.encoding import BadFile, BadRow
from incr_core.data.rates import History
from incr_core.data.sources import Source
from incr_core.data.timeline._keys import Learned
from incr_core.data.timeline._live_blocks import Window
from incr_core.data.timeline._loader import Loader, with_features
from incr_core.data.timeline._partition import Blocks

__all__ = ["Increment", "Tick", "Timeline"]


@dataclass(frozen=True, slots=True)
class Tick:
    """One step of the timeline, the same for every owner of a part of the stream.

    warm: whether it is the warm start, which is learned but not predicted for the metrics. time: where it ends, in
    microseconds.
    """

    number: int
    name: str
    warm: bool = False
    time: int = 0


@dataclass(slots=True)
class Increment:
    """What arrived in one tick.

    arriving: rows to predict now; their targets are there for the test afterwards and not to be used.
    labelled: rows to learn now, with their features as of their prediction time. revealed: all rows whose labels became
    known now, of which `labelled` is this owner's part; where blocks are dealt, who predicted a row need not be who
    learns it. duplicates: ids (n,) of rows that were learned before, by their keys. bad: rows that cannot be used.
    bad_files: files that cannot, found on the way here.
    never: how many of the arriving rows have no label time; they are never learned. cursor: JSON, where to resume after
    this increment, with the keys `learned`, where rows have them. known: outcomes known at its end.
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
        """The outcomes that rows predicted from now on may ask for; small enough to be saved with a version."""
        return self.known.since(self.tick.time).before(self.tick.time).table()


@dataclass(slots=True)
class _Cut:
    name: str
    place: int
    time: int
    warm: bool = False


class Timeline:
    """The increments of a source, from a cursor on.

    every: microseconds of a tick; or None, then `rows` an increment; or neither, then a fragment an increment.
    warm: the warm start, as a time or (`warm_rows`) a number of rows.
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
        blocks: Blocks | None,
        cursor: dict[str, Any] | None,
        learned: Learned | None = None,
    ) -> None:
        self.loader, self.blocks = loader, blocks
        self.every, self.rows, self.warm, self.warm_rows = every, rows, warm, warm_rows
        self._resumed = bool(cursor)
        cursor = cursor or {}
        self.number: int = cursor.get("number", 0)
        self.place: int = cursor.get("place", 0)
        self.time: int | None = cursor.get("time")
        self._window = Window(source, loader, cursor, self.time, learned)

    def __iter__(self) -> Iterator[Increment]:
        if self._resumed:
            self._window.load_again(self.place)
            self._window.forget(self.place, self.time)
        else:
            self._window.load_any()
            if self.warm is not None or self.warm_rows is not None:
                yield self._cut(self._warm_start())
        while (cut := self._next()) is not None:
            yield self._cut(cut)
        if self._window.bad_files:  # behind the last row
            yield self._cut(_Cut("bad files", self.place, self.time or 0))

    # -- where the cuts are

    def _warm_start(self) -> _Cut:
        if self.warm is not None:
            while (coming := self._window.coming) is not None and coming < self.warm:
                self._window.load()
            place = sum(int(np.count_nonzero(group.times < self.warm)) for group in self._window.live)
            return _Cut("warm start", place, self.warm, warm=True)
        assert self.warm_rows is not None
        while self._window.loaded < self.warm_rows and self._window.load():
            pass
        place = min(self.warm_rows, self._window.loaded)
        return _Cut("warm start", place, self._time_at(place - 1), warm=True)

    def _next(self) -> _Cut | None:
        if self.every is not None:
            return self._next_tick(self.every)
        while self._window.loaded <= self.place + (self.rows or 1) - 1 and self._window.load():
            pass
        if self._window.loaded == self.place:
            return self._last_labels()
        if self.rows is not None:
            stop = min(self.place + self.rows, self._window.loaded)
            return _Cut(f"rows {self.place}-{stop - 1}", stop, self._time_at(stop - 1))
        group = next(group for group in self._window.live if self.place < group.start + len(group))
        run = int(np.searchsorted(group.ends, self.place - group.start, side="right"))
        stop = group.start + int(group.ends[run])
        time = self._time_at(stop - 1)
        # Where files overlap in time, the next one may begin before this one ends.
        if stop < group.start + len(group):
            time = min(time, self._time_at(stop))
        elif self.loader.predict_at is not None and (coming := self._window.coming) is not None:
            time = min(time, coming)
        return _Cut(group.names[run], stop, time)

    def _next_tick(self, every: int) -> _Cut | None:
        moments = [self._time_at(self.place)] if self.place < self._window.loaded else []
        if (coming := self._window.coming) is not None:
            moments.append(coming)
        moments += self._due()
        if not moments:
            return None
        begin = min(moments) // every * every
        end = begin + every
        while (coming := self._window.coming) is not None and coming < end:
            self._window.load()
        place = self.place
        for group in self._window.live:
            place = max(place, group.start + int(np.searchsorted(group.times, end)))
        return _Cut(clock.label(begin, every), place, end)

    def _last_labels(self) -> _Cut | None:
        """After the last row: the labels still to come, all at once."""
        due = self._due()
        if not due:
            return None
        return _Cut("last labels", self.place, max(group.last_label for group in self._window.live) + 1)

    def _due(self) -> list[int]:
        """The next label time of each group, where one is still to come."""
        found = []
        for group in self._window.live:
            index = 0 if self.time is None else int(np.searchsorted(group.labels, self.time))
            if index < len(group.labels):
                found.append(int(group.labels[index]))
        return found

    def _time_at(self, place: int) -> int:
        for group in self._window.live:
            if group.start <= place < group.start + len(group):
                return int(group.times[place - group.start])
        return self.time or 0

    # -- what lies between two cuts

    def _cut(self, cut: _Cut) -> Increment:
        arriving: list[Batch] = []
        bad: list[BadRow] = []
        doubles = [torch.zeros(0, dtype=torch.int64)]
        never = 0
        for group in self._window.live:
            start, stop = self.place - group.start, cut.place - group.start
            if stop <= 0 or start >= len(group):
                continue
            first, last = np.searchsorted(group.at, (start, stop))
            if last > first:
                arriving.append(group.batch.slice(int(first), int(last)))
            if group.bad:
                first, last = np.searchsorted(group.bad_at, (start, stop))
                bad += group.bad[first:last]
            if len(group.doubles):
                first, last = np.searchsorted(group.doubles_at, (start, stop))
                doubles.append(group.doubles[first:last])
            if len(group.never):
                never += int(np.diff(np.searchsorted(group.never, (start, stop)))[0])
        arrived = self._joined(arriving)
        labelled = arrived if self.loader.label_at is None else self._labelled(cut.time)
        revealed = labelled
        bad_files = self._window.told()
        if self.blocks is not None:
            same = labelled is arrived
            arrived = self.blocks.deal(arrived)
            labelled = arrived if same else self.blocks.deal(labelled)
            # A bad row belongs to no block: the first owner tells of it.
            bad = bad if self.blocks.index == 0 else []
            bad_files = bad_files if self.blocks.index == 0 else []
            doubles = doubles if self.blocks.index == 0 else doubles[:1]
        number = self.number
        self.number, self.place = number + 1, cut.place
        self.time = cut.time if self.time is None else max(self.time, cut.time)
        self._window.forget(self.place, self.time)
        return Increment(
            Tick(number, cut.name, cut.warm, self.time),
            arrived,
            labelled,
            revealed,
            torch.cat(doubles),
            bad,
            bad_files,
            never,
            {**self._window.cursor(), "number": self.number, "place": self.place, "time": self.time},
            self._window.history,
            self._window.learned,
        )

    def _labelled(self, time: int) -> Batch:
        pieces: list[Batch] = []
        keys: list[tuple[Any, Any]] = []
        for group in self._window.live:
            first = 0 if self.time is None else int(np.searchsorted(group.due, self.time))
            index = group.order[first : int(np.searchsorted(group.due, time))]
            if len(index):
                pieces.append(group.batch.take(torch.from_numpy(index)))
                keys.append((group.due[first : first + len(index)], group.arrive[index]))
        batch = self._joined(pieces)
        if len(pieces) < 2:
            return batch
        # By label time, whatever group a row was loaded with.
        due, arrive = (np.concatenate(parts) for parts in zip(*keys, strict=True))
        assert batch.rows is not None
        return batch.take(torch.from_numpy(np.lexsort((batch.rows.numpy(), arrive, due))))

    def _joined(self, pieces: list[Batch]) -> Batch:
        if pieces:
            return cat(pieces)
        empty, rates = self.loader.encoder.empty(), self.loader.rates
        return with_features(empty, np.zeros((0, 2 * len(rates)), dtype=np.float32)) if rates else empty
