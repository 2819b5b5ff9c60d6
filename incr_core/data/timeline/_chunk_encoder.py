"""Encoding of a fragment's tables as chunks: which rows are owned, when they arrive, and which rows are bad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from incr_core.data._row_ids import offset_of, row_ids
from incr_core.data.encoding import BadRow, Encoded, Encoder, Slices, reject
from incr_core.data.rates import Questions, Rate
from incr_core.data.sources import Fragment, SharedReads
from incr_core.data.timeline._alike import Alike, kind_of
from incr_core.data.timeline._bad_files import check_encodes
from incr_core.data.timeline._chunk import Chunk, Ints, Mask
from incr_core.data.timeline._dealt_chunk import DealtChunk
from incr_core.data.timeline._keys import keys_of
from incr_core.data.timeline._partition import ByOwners, ByRow
from incr_core.data.timeline._row_times import RowTimes
from incr_core.data.times import NEVER
from incr_core.errors import ArgumentError, StreamError

__all__ = ["ChunkEncoder"]


@dataclass(slots=True)
class ChunkEncoder:
    """The conversion of a table's rows to a chunk.

    Every owner of a part of a stream reads all rows, because their times determine the sorting and the cuts, and
    encodes
    only its own.

    Attributes:
        encoder, rates: the features of a row.
        predict_at, label_at, key: the columns of times, and those that rows are known again by.
        owner: whose rows are encoded; None: all.
        strict: a bad row raises `BadRows`.
        tolerant: a file that cannot be used is passed over, by all owners alike.
        leap: microseconds by which no time may leap ahead (`times.leaps`).
        floors: fragment -> a time before which no row of it counts as arriving.
        alike: what files must agree on, after those read so far.
        reads: the reads that all owners in this process share.
        slices: the slices of the stream. The metrics of each are reported separately.
    """

    encoder: Encoder
    predict_at: str | None
    label_at: str | None
    owner: ByRow | None
    strict: bool
    tolerant: bool
    rates: Sequence[Rate] = ()
    leap: int | None = None
    key: Sequence[str] = ()
    floors: dict[int, int] = field(default_factory=dict)
    alike: Alike = field(default_factory=Alike)
    reads: SharedReads | None = None
    slices: Slices | None = None

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        times = [name for name in (self.predict_at, self.label_at) if name]
        owner = self.owner.columns if self.owner else []
        rates = [name for rate in self.rates for name in rate.columns]
        sliced = self.slices.columns if self.slices is not None else []
        return list(dict.fromkeys([*self.encoder.columns, *rates, *times, *owner, *self.key, *sliced]))

    def encode(self, fragment: Fragment, table: pa.Table, start: int) -> Chunk:
        """Encode rows of a fragment, from offset `start` of its file: the times of all rows, and the owned rows as
        tensors.
        """
        dealt = self._dealt(fragment, table, start)
        if dealt is not None and self.owner is not None:
            return self.accept(fragment, dealt.owned_by(self.owner.mark))
        return self.accept(fragment, self._told_owners(self.made(fragment, table, start), table))

    def _dealt(self, fragment: Fragment, table: pa.Table, start: int) -> DealtChunk | None:
        """Return the chunk for all owners that share reads; None if each owner must create its own.

        This is the case if rows are bad, or if the file has a fault, which each owner reports for itself.
        """
        owner = self.owner
        if owner is None or self.reads is None or fragment.fingerprint is None:
            return None

        def make() -> DealtChunk | None:
            try:
                chunk = replace(self, owner=None).made(fragment, table, start)
            except (StreamError, ArgumentError):
                return None
            if chunk.bad:
                return None
            return DealtChunk.of(self._told_owners(chunk, table), *owner.marks(table, chunk.row_ids, chunk.times))

        place = ("chunk", fragment.number, fragment.fingerprint(), start, len(table), self._floor(fragment))
        dealt: DealtChunk | None = self.reads.once(place, make, lambda made: 0 if made is None else made.nbytes)
        return dealt

    def _told_owners(self, chunk: Chunk, table: pa.Table) -> Chunk:
        """The chunk of a table. For a block of owners, each row contains the number of its owner."""
        if isinstance(self.owner, ByOwners):
            owners = self.owner.owners(table, chunk.row_ids, chunk.times)
            chunk.batch.owner = torch.from_numpy(owners[chunk.good])
        return chunk

    def accept(self, fragment: Fragment, chunk: Chunk) -> Chunk:
        """Record the kinds of values of a chunk from here or another reader; raise StreamError if they are
        inconsistent.
        """
        self.alike = self.alike.after(fragment.name, chunk.held, chunk.zoned)
        return chunk

    def made(self, fragment: Fragment, table: pa.Table, start: int, read: RowTimes | None = None) -> Chunk:
        """Encode as `encode` does, but independent of earlier chunks; `read` contains the rows' times, if known."""
        if self.tolerant and self.owner is not None:
            check_encodes(self.encoder, table, fragment.name)
        self.encoder.check(table, fragment.name)
        held = self._held(table)
        every = ids = row_ids(fragment.file, start, start + len(table))
        read = self._times(table, fragment) if read is None else read
        times, known = read.arrive, read.known
        owned = self._owned(table, fragment, start, ids, times)
        unusable = np.zeros(len(table), dtype=bool)
        bad: list[BadRow] = []
        for wrong in read.wrong:
            index = np.flatnonzero(wrong.rows & owned & ~unusable)
            unusable |= wrong.rows
            column, expected, got = wrong.column, wrong.expected, wrong.got
            shown = table[column].take(pa.array(index)).to_pylist()
            bad += [
                BadRow(int(ids[i]), fragment.name, start + i, column, expected, got, "null" if v is None else str(v))
                for i, v in zip(index.tolist(), shown, strict=True)
            ]
        kept = np.flatnonzero(owned & ~unusable)
        if len(kept) < len(table):
            table, ids = table.take(pa.array(kept)), ids[torch.from_numpy(kept)]
        labelled: bool | Mask = known[kept] < NEVER if self.label_at else True
        encoded = self._encoded(table, ids, fragment.name, labelled)
        if encoded.good is not None:
            kept, table = kept[encoded.good], table.filter(pa.array(encoded.good))
        batch = encoded.batch
        if self.slices is not None:
            batch = replace(batch, slices=self.slices.of(table, fragment.name))
        bad = sorted([*bad, *encoded.bad], key=lambda row: row.row)
        if bad and self.strict:
            self._reject(bad, start + len(times))
        self.alike.after(fragment.name, held, read.zoned)  # refuse inconsistent files before any use
        known[unusable] = NEVER
        if self.rates:
            labels = batch.targets.numpy().astype(np.float64)
            questions = Questions.answered(self.rates, table, labels, known[kept], times[kept])
        else:
            questions = Questions.of((), table)
        keys = keys_of(table, self.key, fragment.name) if self.key else None
        return Chunk(
            times,
            known,
            every,
            kept,
            batch,
            questions,
            bad,
            np.array([row.offset - start for row in bad], dtype=np.int64),
            np.zeros(min(len(times), 1), dtype=np.int64),
            np.array([len(times)] if len(times) else [], dtype=np.int64),
            keys,
            held=held,
            zoned=read.zoned,
        )

    def _reject(self, bad: Sequence[BadRow], total: int) -> NoReturn:
        for role, column in (("predict_at", self.predict_at), ("label_at", self.label_at)):
            found = [row for row in bad if row.column == column]
            if found:
                reject(found, total, f"stream.{role}")
        reject(bad, total)

    def _encoded(self, table: pa.Table, ids: Tensor, place: str, labelled: bool | Mask) -> Encoded:
        try:
            return self.encoder.encode(table, ids, place, labelled)
        except StreamError:
            if not self.tolerant or self.owner is None or self.strict:
                raise
            # All owners agree that the file can be used; only this owner has no usable rows.
            nothing = self.encoder.encode(table.slice(0, 0), ids[:0], place).batch
            bad = [
                BadRow(row, place, offset, "", "values of the columns' types", "others in all rows of an owner", "")
                for row, offset in zip(ids.tolist(), offset_of(ids).tolist(), strict=True)
            ]
            return Encoded(nothing, bad, np.zeros(len(table), dtype=bool))

    def _owned(self, table: pa.Table, fragment: Fragment, start: int, ids: Tensor, times: Ints) -> Mask:
        """Select this owner's rows; owners that share reads compute the assignment once."""
        owner = self.owner
        if owner is None:
            return np.ones(len(table), dtype=bool)
        if self.reads is None or fragment.fingerprint is None:
            return owner.marked(*owner.marks(table, ids, times))
        place = (fragment.number, fragment.fingerprint(), start, len(table))
        marks = self.reads.once(place, lambda: owner.marks(table, ids, times), lambda found: int(found[1].nbytes))
        return owner.marked(*marks)

    def _held(self, table: pa.Table) -> dict[str, str | None]:
        """Return the kind of values of each column that becomes numbers or hashes; None for columns of nulls."""
        numeric = [*self.encoder.numeric, *(rate.outcome for rate in self.rates if rate.outcome)]
        if self.encoder.objective == "regression":
            numeric += self.encoder.labels
        hashed = [*self.encoder.categorical, *self.encoder.date, *(name for rate in self.rates for name in rate.by)]
        return {
            name: kind_of(table.schema.field(name).type, numeric=name in numeric)
            for name in (*hashed, *numeric)
            if table[name].null_count < len(table)
        }

    def times_of(self, fragment: Fragment) -> RowTimes:
        """Return the times of all rows of a fragment; no other columns are read."""
        columns = [self.predict_at, self.label_at, *self._known_at]
        return self._times(fragment.load(list(dict.fromkeys(name for name in columns if name))), fragment)

    @property
    def _known_at(self) -> list[str]:
        return [rate.known_at for rate in self.rates if rate.known_at]

    def _times(self, table: pa.Table, fragment: Fragment) -> RowTimes:
        floor = self._floor(fragment)
        return RowTimes.of(
            table, fragment.name, self.predict_at, self.label_at, self._known_at, floor, self.leap, fragment.earlier
        )

    def _floor(self, fragment: Fragment) -> int:
        return max(self.floors.get(fragment.number, fragment.first), fragment.first)
