"""A group: fragments whose times overlap, loaded, checked, encoded and sorted together; or a chunk of one.

The whole stream and each owner of a part of it see the same groups, of the same rows in the same order; only the rows
that are owned are encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from incr_core._util import prefetch
from incr_core.batch import Batch
from incr_core.data._row_ids import offset_of, row_ids
from incr_core.data.encoding import BadRow, Encoded, Encoder, refuse
from incr_core.data.rates import History, Questions, Rate
from incr_core.data.sources import Fragment
from incr_core.data.timeline._alike import Alike, kind_of
from incr_core.data.timeline._bad_files import FAULTS, check_encodes
from incr_core.data.timeline._chunk import Part, in_order_of_arrival
from incr_core.data.timeline._keys import Learned, keys_of
from incr_core.data.timeline._partition import ByColumn, ByHash
from incr_core.data.timeline._row_times import RowTimes
from incr_core.data.times import NEVER
from incr_core.errors import BadRows, StreamError

__all__ = ["Group", "Loader", "Past", "together", "with_features"]

Ints = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(slots=True)
class Group:
    """Rows of some fragments in the order of their arrival.

    fragments: their numbers. first: the earliest time. names, ends: the fragments by order, and where each run of rows
    of one fragment ends. times (n,): when each row arrives. labels (m,): the label times that will come, ascending.

    Of the owned rows: `batch` in order of arrival, `at` their places among the n, `arrive` their times; `order` those
    whose labels will come, by label time, and `due` these times; `never` the places of those whose labels will not.
    `bad` and `bad_at`: the owned rows that cannot be used, and their places. `doubles` and `doubles_at`: the ids of
    those that were learned already, and their places.
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
    doubles: Tensor
    doubles_at: Ints
    start: int = 0  # the place of its first row in the stream

    def __len__(self) -> int:
        return len(self.times)

    @property
    def last_label(self) -> int:
        """The last label time there will be."""
        return int(self.labels[-1]) if len(self.labels) else self.first


@dataclass(frozen=True, slots=True)
class Past:
    """What loading needs to know of the rows before: outcomes, for rates; and keys, where rows have them."""

    history: History
    learned: Learned | None = None


@dataclass(slots=True)
class Loader:
    """How fragments become groups.

    by_fragment: rows arrive fragment by fragment, by time only within; else by time. cold_start: the time of a warm
    start; by fragment, all rows before it come first. floors: fragment -> no row counts as earlier. leap: microseconds
    by which no time may leap ahead (`times.leaps`). on_bad_file: told of a file that cannot be used, and after how
    many of its rows; where it is None, what is wrong is raised. key: the columns by which a row is known again. alike:
    what files must agree on.
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
    leap: int | None = None
    on_bad_file: Callable[[Fragment, int, Exception], None] | None = None
    key: Sequence[str] = ()
    alike: Alike = field(default_factory=Alike)

    @property
    def columns(self) -> list[str]:
        """Every column that is read."""
        times = [name for name in (self.predict_at, self.label_at) if name]
        owner = [self.owner.column] if self.owner else []
        rates = [name for rate in self.rates for name in rate.columns]
        return list(dict.fromkeys([*self.encoder.columns, *rates, *times, *owner, *self.key]))

    def groups(self, fragments: Sequence[Fragment], past: Past) -> Generator[tuple[Group, Past, bool]]:
        """Load fragments that are sorted together; a group comes with the past that has its rows too.

        They are one group. But where rows come as they lie, each chunk of a file is a group by itself: one is read
        while the one before is encoded, and no more of the file is in memory. The flag tells the last group; none does
        where the rest of a file, or all files, cannot be used.
        """
        if self.predict_at is None and not self.by_fragment:
            yield from self._chunks(fragments[0], past)
            return
        usable, parts = list[Fragment](), list[Part]()
        for fragment in fragments:
            try:
                parts.append(self._part(fragment, fragment.load(self.columns), fragment.start))
                usable.append(fragment)
            except FAULTS as fault:
                self._bad_file(fragment, 0, fault)
        if parts:
            yield *self._timed(usable, parts, past), True

    def _chunks(self, fragment: Fragment, past: Past) -> Generator[tuple[Group, Past, bool]]:
        """The chunks of a fragment, a group each."""
        given = 0
        with closing(prefetch(fragment.chunks(self.columns))) as chunks:
            try:
                chunk: pa.Table | None = next(chunks)
                while chunk is not None:
                    part = self._part(fragment, chunk, fragment.start + given)
                    past = self._once(part, past)
                    given += len(chunk)
                    fault: Exception | None = None
                    try:
                        chunk = next(chunks, None)
                    except FAULTS as found:
                        fault = found
                    yield self._group([fragment], part), past, chunk is None and fault is None
                    if fault is not None:
                        raise fault
            except FAULTS as fault:
                self._bad_file(fragment, given, fault)

    def _bad_file(self, fragment: Fragment, rows: int, fault: Exception) -> None:
        if self.on_bad_file is None or isinstance(fault, BadRows):
            raise fault
        self.on_bad_file(fragment, rows, fault)

    def _once(self, part: Part, past: Past) -> Past:
        """Leave rows that were learned before out of a part, in order of arrival; the past that has its rows too."""
        if past.learned is None or part.keys is None:
            return past
        good = part.good
        learns = part.known[good] < NEVER if self.label_at else np.ones(len(good), dtype=bool)
        double, learned = past.learned.taking(part.keys, good, part.times[good], learns, len(part.times))
        part.leave_out(double)
        return Past(past.history, learned)

    def _timed(self, fragments: Sequence[Fragment], parts: Sequence[Part], past: Past) -> tuple[Group, Past]:
        """All rows of some fragments, in order of arrival, with their rates."""
        part = parts[0]
        if len(parts) > 1 or (self.predict_at is not None and not part.is_in_order):
            part = in_order_of_arrival(parts, by_fragment=self.by_fragment, first_before=self.cold_start)
        past = self._once(part, past)
        if self.rates:
            history = past.history.since(fragments[0].first).plus(part.questions)
            features = history.features(part.questions, part.times[part.good])
            part.batch = with_features(part.batch, features)
            past = Past(history, past.learned)
        return self._group(fragments, part), past

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
            part.doubles,
            part.doubles_at,
        )

    def _refuse(self, bad: Sequence[BadRow], total: int) -> NoReturn:
        for role, column in (("predict_at", self.predict_at), ("label_at", self.label_at)):
            found = [row for row in bad if row.column == column]
            if found:
                refuse(found, total, f"stream.{role}")
        refuse(bad, total)

    def _part(self, fragment: Fragment, table: pa.Table, start: int) -> Part:
        """Rows of a fragment from offset `start` on: the times of all, and the owned ones encoded."""
        if self.on_bad_file is not None and self.owner is not None:
            check_encodes(self.encoder, table, fragment.name)
        self.encoder.check(table, fragment.name)
        held = self._held(table)
        rows = row_ids(fragment.file, start, start + len(table))
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
        encoded = self._encoded(table, rows, fragment.name, labelled)
        if encoded.good is not None:
            kept, table = kept[encoded.good], table.filter(pa.array(encoded.good))
        bad = sorted([*bad, *encoded.bad], key=lambda row: row.row)
        if bad and self.strict:
            self._refuse(bad, start + len(times))
        alike = self.alike.after(fragment.name, held, read.zoned)
        known[unusable] = NEVER
        if self.rates:
            labels = encoded.batch.targets.numpy().astype(np.float64)
            questions = Questions.answered(self.rates, table, labels, known[kept], times[kept])
        else:
            questions = Questions.of((), table)
        keys = keys_of(table, self.key, fragment.name) if self.key else None
        self.alike = alike  # behind all that can raise: a file that is refused decides nothing
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
            keys,
        )

    def _encoded(self, table: pa.Table, rows: Tensor, place: str, labelled: bool | Mask) -> Encoded:
        try:
            return self.encoder.encode(table, rows, place, labelled)
        except StreamError:
            if self.on_bad_file is None or self.owner is None or self.strict:
                raise
            # The file can be used, as all owners agree; it is only that none of this owner's rows can.
            nothing = self.encoder.encode(table.slice(0, 0), rows[:0], place).batch
            bad = [
                BadRow(row, place, offset, "", "values of the columns' types", "others in all rows of an owner", "")
                for row, offset in zip(rows.tolist(), offset_of(rows).tolist(), strict=True)
            ]
            return Encoded(nothing, bad, np.zeros(len(table), dtype=bool))

    def _held(self, table: pa.Table) -> dict[str, str | None]:
        """What the columns of a table hold that become numbers or hashes; nothing where there are no rows."""
        numeric = [*self.encoder.numeric, *(rate.outcome for rate in self.rates if rate.outcome)]
        if self.encoder.objective == "regression":
            numeric += self.encoder.labels
        hashed = [*self.encoder.categorical, *(name for rate in self.rates for name in rate.by)]
        return {
            name: kind_of(table.schema.field(name).type, numeric=name in numeric)
            for name in (*hashed, *numeric)
            if table[name].null_count < len(table)
        }

    def _times(self, table: pa.Table, fragment: Fragment) -> RowTimes:
        floor = max(self.floors.get(fragment.number, fragment.first), fragment.first)
        known_at = [rate.known_at for rate in self.rates if rate.known_at]
        return RowTimes.of(table, fragment.name, self.predict_at, self.label_at, known_at, floor, self.leap)


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
        highest = max((member.file for member in group), default=0)
        overlaps = fragment.first < last or (fragment.first == last and fragment.file < highest)
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
