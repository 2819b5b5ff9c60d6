"""The timeline: groups of rows in, increments out, in an order that depends on the data alone.

An increment is two cuts. The rows up to a *place* in the order of arrival arrive, and the labels due before a *time*
are known. Three rules cut (see `_next`): ticks of a clock, numbers of rows, and files. No cut gives out a label that
is due at or after the time of a row that arrives later, so no prediction can depend on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from incr_core import clock
from incr_core.batch import Batch, cat
from incr_core.errors import StreamError
from incr_core.group import Group, Loader, together, with_features
from incr_core.history import History
from incr_core.partition import Blocks
from incr_core.quarantine import BadRow
from incr_core.source import Source

__all__ = ["Increment", "Timeline"]


@dataclass(slots=True)
class Increment:
    """What arrived in one tick.

    number, name: the same for every owner of a part of the stream. warm: the warm start, learned but not predicted for
    the metrics. arriving: rows to predict now; their targets are there for the test afterwards and not to be used.
    labelled: rows to learn now, with their features as of their prediction time. revealed: all rows whose labels became
    known now, of which `labelled` is this owner's part; where blocks are dealt, who predicted a row need not be who
    learns it. bad: rows that cannot be used.
    never: how many of the arriving rows have no label time; they are never learned. cursor: JSON, where to resume after
    this increment. known: outcomes known at its end.
    """

    number: int
    name: str
    warm: bool
    arriving: Batch
    labelled: Batch
    revealed: Batch
    bad: list[BadRow]
    never: int
    cursor: dict[str, Any]
    known: History
    time: int

    def history(self) -> pa.Table:
        """The outcomes that rows predicted from now on may ask for; small enough to be saved with a version."""
        return self.known.since(self.time).before(self.time).table()


@dataclass(slots=True)
class _Seen:
    """A group that was loaded, and must be loaded again by whoever resumes here.

    fragments: those that end with it.
    """

    group: Group | None
    fragments: list[int]
    rows: int
    first: int
    last_known: int
    finished: bool = False


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
    ) -> None:
        self.source, self.loader, self.blocks = source, loader, blocks
        self.every, self.rows, self.warm, self.warm_rows = every, rows, warm, warm_rows
        cursor = cursor or {}
        self.number: int = cursor.get("number", 0)
        self.place: int = cursor.get("place", 0)
        self.time: int | None = cursor.get("time")
        self._origin: int | None = cursor.get("origin")
        self._done = {number for start, stop in cursor.get("done", []) for number in range(start, stop)}
        self._loaded_to: int = cursor.get("rows", 0)
        self._rows_done = self._rows_dropped = self._loaded_to
        self._floors: dict[str, int] = dict(cursor.get("floors", {}))
        if "fragments" in cursor:
            late = source.resume(cursor["fragments"], cursor.get("sizes", {}))
            if self.time is not None:
                self._floors |= {str(number): self.time for number in late}
        else:
            source.begin()
        loader.floors = {int(number): floor for number, floor in self._floors.items()}
        self._names: list[str] = []  # shared by cursors: never changed, only replaced
        self._sizes: dict[str, int] = {}  # the same
        self._done_ranges = cursor.get("done", [])
        self._live: list[Group] = []
        self._seen: deque[_Seen] = deque()
        self._latest = -clock.NEVER
        self._history = History(loader.rates)
        self._resumed = bool(cursor)
        self._groups = together(
            source.fragments(
                loader.predict_at,
                skip=frozenset(self._done),
                floors=loader.floors,
                origin=self._origin,
            ),
            loader.predict_at is not None,
        )
        self._coming = next(self._groups, None)
        self._loading: Generator[tuple[Group, History, bool]] | None = None
        if self._origin is None and self._coming and loader.predict_at is not None:
            self._origin = self._coming[0].first

    def __iter__(self) -> Iterator[Increment]:
        if self._resumed:
            self._resume()
        else:
            self._refuse_nothing()
            if self.warm is not None or self.warm_rows is not None:
                yield self._cut(self._warm_start())
        while (cut := self._next()) is not None:
            yield self._cut(cut)

    # -- where the cuts are

    def _warm_start(self) -> _Cut:
        if self.warm is not None:
            while self._coming and self._coming[0].first < self.warm:
                self._load()
            place = sum(int(np.count_nonzero(group.times < self.warm)) for group in self._live)
            return _Cut("warm start", place, self.warm, warm=True)
        assert self.warm_rows is not None
        while self._loaded_to < self.warm_rows and self._load():
            pass
        place = min(self.warm_rows, self._loaded_to)
        return _Cut("warm start", place, self._time_at(place - 1), warm=True)

    def _next(self) -> _Cut | None:
        if self.every is not None:
            return self._next_tick(self.every)
        while self._loaded_to <= self.place + (self.rows or 1) - 1 and self._load():
            pass
        if self._loaded_to == self.place:
            return self._last_labels()
        if self.rows is not None:
            stop = min(self.place + self.rows, self._loaded_to)
            return _Cut(f"rows {self.place}-{stop - 1}", stop, self._time_at(stop - 1))
        group = next(group for group in self._live if self.place < group.start + len(group))
        run = int(np.searchsorted(group.ends, self.place - group.start, side="right"))
        stop = group.start + int(group.ends[run])
        time = self._time_at(stop - 1)
        # Where files overlap in time, the next one may begin before this one ends.
        if stop < group.start + len(group):
            time = min(time, self._time_at(stop))
        elif self._coming:
            time = min(time, self._coming[0].first)
        return _Cut(group.names[run], stop, time)

    def _next_tick(self, every: int) -> _Cut | None:
        moments = [self._time_at(self.place)] if self.place < self._loaded_to else []
        if self._coming:
            moments.append(self._coming[0].first)
        moments += self._due()
        if not moments:
            return None
        begin = min(moments) // every * every
        end = begin + every
        while self._coming and self._coming[0].first < end:
            self._load()
        place = self.place
        for group in self._live:
            place = max(place, group.start + int(np.searchsorted(group.times, end)))
        return _Cut(clock.label(begin, every), place, end)

    def _last_labels(self) -> _Cut | None:
        """After the last row: the labels still to come, all at once."""
        due = self._due()
        if not due:
            return None
        return _Cut("last labels", self.place, max(group.last_label for group in self._live) + 1)

    def _due(self) -> list[int]:
        """The next label time of each group, where one is still to come."""
        found = []
        for group in self._live:
            index = 0 if self.time is None else int(np.searchsorted(group.labels, self.time))
            if index < len(group.labels):
                found.append(int(group.labels[index]))
        return found

    def _time_at(self, place: int) -> int:
        for group in self._live:
            if group.start <= place < group.start + len(group):
                return int(group.times[place - group.start])
        return self.time or 0

    # -- what lies between two cuts

    def _cut(self, cut: _Cut) -> Increment:
        arriving: list[Batch] = []
        bad: list[BadRow] = []
        never = 0
        for group in self._live:
            start, stop = self.place - group.start, cut.place - group.start
            if stop <= 0 or start >= len(group):
                continue
            first, last = np.searchsorted(group.at, (start, stop))
            if last > first:
                arriving.append(group.batch.slice(int(first), int(last)))
            if group.bad:
                first, last = np.searchsorted(group.bad_at, (start, stop))
                bad += group.bad[first:last]
            if len(group.never):
                never += int(np.diff(np.searchsorted(group.never, (start, stop)))[0])
        arrived = self._joined(arriving)
        labelled = arrived if self.loader.label_at is None else self._labelled(cut.time)
        revealed = labelled
        if self.blocks is not None:
            same = labelled is arrived
            arrived = self.blocks.deal(arrived)
            labelled = arrived if same else self.blocks.deal(labelled)
            # A bad row belongs to no block: the first owner tells of it.
            bad = bad if self.blocks.index == 0 else []
        number = self.number
        self.number, self.place = number + 1, cut.place
        self.time = cut.time if self.time is None else max(self.time, cut.time)
        self._forget()
        return Increment(
            number,
            cut.name,
            cut.warm,
            arrived,
            labelled,
            revealed,
            bad,
            never,
            self._cursor(),
            self._history,
            self.time,
        )

    def _labelled(self, time: int) -> Batch:
        pieces: list[Batch] = []
        keys: list[tuple[Any, Any]] = []
        for group in self._live:
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

    # -- loading, forgetting, resuming

    def _load(self) -> bool:
        if self._loading is None:
            if self._coming is None:
                return False
            if self._seen and self.loader.predict_at and self._coming[0].first < self._latest:
                raise StreamError(
                    f"{self._coming[0].name}: expected times not before those of the part before it, got earlier ones; "
                    "a Python source must give its parts in time order"
                )
            self._loading = self.loader.groups(self._coming, self._history)
        group, self._history, last = next(self._loading)
        group.start = self._loaded_to
        self._loaded_to += len(group)
        self._latest = int(group.times.max(initial=self._latest))
        self._live.append(group)
        whole = group.fragments if last else []
        self._seen.append(_Seen(group, whole, len(group), group.first, group.last_known))
        if last:
            self._loading, self._coming = None, next(self._groups, None)
        return True

    def _forget(self) -> None:
        """Drop what no later increment can need: arrived, labelled, and out of every rate's window."""
        finished = {id(group) for group in self._live if self._finished(group)}
        if finished:
            self._live = [group for group in self._live if id(group) not in finished]
            for seen in self._seen:
                if id(seen.group) in finished:
                    seen.finished, seen.group = True, None
        if not self._seen or not self._seen[0].finished:
            return
        spans = [rate.span for rate in self.loader.rates]
        # Features of the first unfinished group must come out the same after a resume: keep its whole past.
        core = next((seen for seen in self._seen if not seen.finished), self._seen[-1])
        known = [span for span in spans if span is not None]
        while self._seen and self._seen[0].finished and len(known) == len(spans):
            oldest = self._seen[0]
            if spans and (oldest is core or oldest.last_known >= core.first - max(known)):
                break
            self._seen.popleft()
            self._rows_dropped += oldest.rows
            if oldest.fragments:  # else a chunk: whoever resumes reads its file from the beginning
                self._rows_done = self._rows_dropped
                self._done |= set(oldest.fragments)
                self._done_ranges = _ranges(self._done)

    def _finished(self, group: Group) -> bool:
        labelled = len(group.labels) == 0 or (self.time is not None and group.last_label < self.time)
        return labelled and group.start + len(group) <= self.place

    def _cursor(self) -> dict[str, Any]:
        if len(self._names) != len(self.source.names):
            self._names = list(self.source.names)
        if len(self._sizes) != len(self.source.sizes):
            self._sizes = dict(self.source.sizes)
        return {
            "fragments": self._names,
            "sizes": self._sizes,
            "floors": self._floors,
            "origin": self._origin,
            "done": self._done_ranges,
            "rows": self._rows_done,
            "number": self.number,
            "place": self.place,
            "time": self.time,
        }

    def _resume(self) -> None:
        """Load again what had arrived and is still needed."""
        while self._loaded_to < self.place and self._load():
            pass
        if self._loaded_to < self.place:
            raise StreamError(
                f"stream.path: expected the {self.place} rows this run has seen, got {self._loaded_to}; "
                "a stream may only grow: put back what was taken away"
            )
        self._forget()

    def _refuse_nothing(self) -> None:
        while self._loaded_to == 0 and self._load():
            pass
        if self._loaded_to == 0:
            names = self.source.names
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise StreamError(f"stream.path: expected rows, got none in {shown or 'the source'}; write some first")


def _ranges(numbers: set[int]) -> list[list[int]]:
    """Sorted numbers as [start, stop) pairs."""
    pairs: list[list[int]] = []
    for number in sorted(numbers):
        if pairs and pairs[-1][1] == number:
            pairs[-1][1] = number + 1
        else:
            pairs.append([number, number + 1])
    return pairs
