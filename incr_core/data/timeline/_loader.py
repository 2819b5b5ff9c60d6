"""A group: fragments whose times overlap, loaded, checked, encoded and sorted together; or a chunk of one.

The whole stream and each owner of a part of it see the same groups, of the same rows in the same order; only the rows
that are owned are encoded.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from incr_core._util import prefetch
from incr_core.batch import Batch
from incr_core.data._row_ids import row_ids
from incr_core.data.encoding import BadRow, Encoder, refuse
from incr_core.data.rates import History, Questions, Rate
from incr_core.data.sources import Fragment
from incr_core.data.timeline._chunk import Part, in_order_of_arrival
from incr_core.data.timeline._partition import ByColumn, ByHash
from incr_core.data.timeline._row_times import RowTimes
from incr_core.data.times import NEVER
from incr_core.errors import StreamError

__all__ = ["Group", "Loader", "together", "with_features"]

Ints = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(slots=True)
class Group:
    """Rows of some fragments in the order of their arrival.

    fragments: their numbers. first: the earliest time. names, ends: the fragments by order, and where each run of rows
    of one fragment ends. times (n,): when each row arrives. labels (m,): the label times that will come, ascending.

    Of the owned rows: `batch` in order of arrival, `at` their places among the n, `arrive` their times; `order` those
    whose labels will come, by label time, and `due` these times; `never` the places of those whose labels will not.
    `bad` and `bad_at`: the owned rows that cannot be used, and their places.
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
    due: Ints
    order: Ints
    bad: list[BadRow]
    bad_at: Ints
    never: Ints
    last_known: int
    start: int = 0  # the place of its first row in the stream

    def __len__(self) -> int:
        return len(self.times)

    @property
    def last_label(self) -> int:
        """The last label time there will be."""
        return int(self.labels[-1]) if len(self.labels) else self.first


@dataclass(slots=True)
class Loader:
    """How fragments become groups.

    by_fragment: rows arrive fragment by fragment, by time only within; else by time. cold_start: the time of a warm
    start; by fragment, all rows before it come first. floors: fragment -> no row counts as earlier.
    """

    encoder: Encoder
    predict_at: str | None
    label_at: str | None
    strict: bool
    owner: ByColumn | ByHash | None
    by_fragment: bool
    cold_start: int | None
    floors: dict[int, int]
    rates: Sequence[Rate] = ()

    @property
    def columns(self) -> list[str]:
        """Every column that is read."""
        times = [name for name in (self.predict_at, self.label_at) if name]
        owner = [self.owner.column] if self.owner else []
        rates = [name for rate in self.rates for name in rate.columns]
        return list(dict.fromkeys([*self.encoder.columns, *rates, *times, *owner]))

    def groups(self, fragments: Sequence[Fragment], history: History) -> Generator[tuple[Group, History, bool]]:
        """Load fragments that are sorted together; a group comes with the history that has its rows too.

        They are one group. But where rows come as they lie, each chunk of a file is a group by itself: one is read
        while the one before is encoded, and no more of the file is in memory. The flag tells the last group.
        """
        if self.predict_at is not None or self.by_fragment:
            yield *self._timed(fragments, history), True
            return
        [fragment] = fragments
        with closing(prefetch(fragment.chunks(self.columns))) as chunks:
            start = 0
            chunk: pa.Table | None = next(chunks)
            while chunk is not None:
                part = self._part(fragment, chunk, start)
                following = next(chunks, None)
                yield self._group(fragments, part), history, following is None
                start += len(chunk)
                chunk = following

    def _timed(self, fragments: Sequence[Fragment], history: History) -> tuple[Group, History]:
        """All rows of some fragments, in order of arrival, with their rates."""
        parts = [self._part(fragment, fragment.load(self.columns), 0) for fragment in fragments]
        part = parts[0]
        if len(parts) > 1 or (self.predict_at is not None and not part.is_in_order):
            part = in_order_of_arrival(parts, by_fragment=self.by_fragment, first_before=self.cold_start)
        if self.rates:
            history = history.since(fragments[0].first).plus(part.questions)
            features = history.features(part.questions, part.times[part.good])
            part.batch = with_features(part.batch, features)
        return self._group(fragments, part), history

    def _group(self, fragments: Sequence[Fragment], part: Part) -> Group:
        at = part.good
        times, known = (values if len(at) == len(values) else values[at] for values in (part.times, part.known))
        nothing = np.zeros(0, dtype=np.int64)
        order = never = labels = nothing
        if self.label_at:
            assert part.batch.rows is not None
            order = np.lexsort((part.batch.rows.numpy(), times, known))[: np.count_nonzero(known < NEVER)]
            never = at[known == NEVER]
            labels = np.sort(part.known[part.known < NEVER])
        return Group(
            [fragment.number for fragment in fragments],
            fragments[0].first,
            [fragments[index].name for index in part.runs],
            part.ends,
            part.times,
            labels,
            part.batch,
            at,
            times,
            known[order],
            order,
            part.bad,
            part.bad_at,
            never,
            max(int(labels[-1]) if len(labels) else fragments[0].first, part.questions.last_known),
        )

    def _refuse(self, bad: Sequence[BadRow], total: int) -> NoReturn:
        for role, column in (("predict_at", self.predict_at), ("label_at", self.label_at)):
            found = [row for row in bad if row.column == column]
            if found:
                refuse(found, total, f"stream.{role}")
        refuse(bad, total)

    def _part(self, fragment: Fragment, table: pa.Table, start: int) -> Part:
        """Rows of a fragment from offset `start` on: the times of all, and the owned ones encoded."""
        self.encoder.measure(table)
        rows = row_ids(fragment.number, start, start + len(table))
        owned = np.ones(len(table), dtype=bool) if self.owner is None else self.owner.mask(table)
        read = self._times(table, fragment)
        times, known = read.arrive, read.known
        unusable = np.zeros(len(table), dtype=bool)
        bad: list[BadRow] = []
        for wrong in read.wrong:
            index = np.flatnonzero(wrong.rows & owned & ~unusable)
            unusable |= wrong.rows
            column, expected, got = wrong.column, wrong.expected, wrong.got
            shown = table[column].take(pa.array(index)).to_pylist()
            bad += [
                BadRow(int(rows[i]), fragment.name, start + i, column, expected, got, "null" if v is None else str(v))
                for i, v in zip(index.tolist(), shown, strict=True)
            ]
        kept = np.flatnonzero(owned & ~unusable)
        everything = rows
        if len(kept) < len(table):
            table, rows = table.take(pa.array(kept)), rows[torch.from_numpy(kept)]
        labelled: bool | Mask = known[kept] < NEVER if self.label_at else True
        encoded = self.encoder.encode(table, rows, fragment.name, labelled)
        if encoded.good is not None:
            kept, table = kept[encoded.good], table.filter(pa.array(encoded.good))
        bad = sorted([*bad, *encoded.bad], key=lambda row: row.row)
        if bad and self.strict:
            self._refuse(bad, start + len(times))
        known[unusable] = NEVER
        if self.rates:
            labels = encoded.batch.targets.numpy().astype(np.float64)
            questions = Questions.answered(self.rates, table, labels, known[kept], times[kept])
        else:
            questions = Questions.of((), table)
        return Part(
            times,
            known,
            everything,
            kept,
            encoded.batch,
            questions,
            bad,
            np.array([row.offset - start for row in bad], dtype=np.int64),
            np.zeros(min(len(times), 1), dtype=np.int64),
            np.array([len(times)] if len(times) else [], dtype=np.int64),
        )

    def _times(self, table: pa.Table, fragment: Fragment) -> RowTimes:
        floor = max(self.floors.get(fragment.number, fragment.first), fragment.first)
        known_at = [rate.known_at for rate in self.rates if rate.known_at]
        return RowTimes.of(table, fragment.name, self.predict_at, self.label_at, known_at, floor)


def together(fragments: Iterator[Fragment], timed: bool) -> Iterator[list[Fragment]]:
    """Fragments in lists whose times do not overlap, so that each list can be sorted by itself.

    Without times each is a list as soon as it comes: nothing waits for the one after it.
    """
    if not timed:
        yield from ([fragment] for fragment in fragments)
        return
    group: list[Fragment] = []
    last = 0
    for fragment in fragments:
        if group and fragment.first < group[0].first:
            raise StreamError(
                f"{fragment.name}: expected times not before those of {group[0].name}, got earlier ones; "
                "a Python source must give its parts in time order"
            )
        # Where one ends as the next begins, rows of one moment are in the order of their ids.
        highest = max((member.number for member in group), default=0)
        overlaps = fragment.first < last or (fragment.first == last and fragment.number < highest)
        if group and not overlaps:
            yield group
            group = []
        last = max(last, fragment.last) if group else fragment.last
        group.append(fragment)
    if group:
        yield group


def with_features(batch: Batch, features: np.ndarray[Any, np.dtype[np.float32]]) -> Batch:
    """The batch with more numeric columns (B, F).

    >>> with_features(Batch(torch.zeros(2, 1), torch.zeros(2)), np.ones((2, 1), dtype=np.float32)).inputs
    tensor([[0., 1.],
            [0., 1.]])
    """
    more = torch.from_numpy(features)
    inputs = batch.inputs
    if isinstance(inputs, dict):
        wider: dict[str, Tensor] | Tensor = inputs | {"numeric": torch.cat([inputs["numeric"], more], dim=1)}
    else:
        wider = torch.cat([inputs, more], dim=1)
    return Batch(wider, batch.targets, batch.weights, batch.task, batch.rows)
