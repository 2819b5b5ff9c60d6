"""Fragments to chunks: decoded and encoded here, or, where readers take turns, handed over by whoever did it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import torch

from incr_core.data.encoding import text
from incr_core.data.sources import Fragment
from incr_core.data.timeline._alike import Alike
from incr_core.data.timeline._bad_files import FAULTS
from incr_core.data.timeline._block import joined_chunks
from incr_core.data.timeline._chunk import Chunk
from incr_core.data.timeline._chunk_encoder import ChunkEncoder
from incr_core.data.timeline._packed_chunk import pack_chunk, unpack_chunk
from incr_core.data.timeline._row_times import RowTimes
from incr_core.data.timeline._turns import Sharing, Transfer

__all__ = ["ChunkReader", "Piece", "TurnReader", "reader_of"]


Made = tuple[Chunk, Transfer]
"""A chunk of all rows, and the same as it is handed over."""

Piece: TypeAlias = pa.Table | Made
"""A chunk to be."""


@dataclass(slots=True)
class ChunkReader:
    """Read fragments alone."""

    chunks: ChunkEncoder

    def pieces(self, fragment: Fragment) -> Iterator[Piece]:
        """The chunks of a fragment, not yet encoded; at least one."""
        return fragment.chunks(self.chunks.columns)

    def chunk(self, fragment: Fragment, piece: Piece, start: int) -> Chunk:
        """The chunk of a piece, whose first row is at offset `start` of its file."""
        return self.chunks.encode(fragment, piece, start)

    def whole(self, fragment: Fragment, member: int) -> Chunk:
        """A fragment as one chunk; it is number `member` of what is loaded together."""
        return self.chunks.encode(fragment, fragment.load(self.chunks.columns), fragment.start)


@dataclass(slots=True)
class TurnReader(ChunkReader):
    """Read fragments in turns with others: runs of row groups of Parquet files, or whole files.

    Whoever's turn it is encodes all rows, so that he need not know who owns which.
    """

    sharing: Sharing

    def pieces(self, fragment: Fragment) -> Iterator[Piece]:
        """The chunks of a fragment: made where it is this reader's turn, and otherwise asked for.

        What is one's own is encoded and handed out here, ahead of one's own need: the others may need it before.
        """
        fragment.check()
        self.sharing.name = _name(fragment)
        return self._pieces(fragment)

    def chunk(self, fragment: Fragment, piece: Piece, start: int) -> Chunk:
        """The owned rows of a piece."""
        return self._accepted(fragment, *piece)

    def _pieces(self, fragment: Fragment) -> Iterator[Made]:
        sharing, turns, alike = self.sharing, self.sharing.turns, self.chunks.alike
        assert turns is not None
        given, part, parts = 0, 0, 1
        while part < parts:
            turn, count, seen, ended = fragment.number + part, 0, 0, False
            while not ended and not sharing.is_mine(turn):
                item = sharing.item(part, sharing.place + given)
                turns.reach(item)
                if (handed := sharing.ask(item, turn)) is None:
                    break
                chunk = unpack_chunk(handed, fragment.file, fragment.start + given)
                alike = alike.after(fragment.name, chunk.held, chunk.zoned)
                ended, parts = handed.told["ends"], handed.told["parts"]
                count, seen, given = count + 1, seen + len(chunk.times), given + len(chunk.times)
                yield chunk, handed
            if not ended:
                for chunk, handed in self._decoded(fragment, part, given, count, seen, alike):
                    alike = alike.after(fragment.name, chunk.held, chunk.zoned)
                    parts, given = handed.told["parts"], given + len(chunk.times)
                    yield chunk, handed
            part += 1

    def _decoded(self, fragment: Fragment, part: int, given: int, skip: int, seen: int, alike: Alike) -> Iterator[Made]:
        """The rest of a part after `skip` chunks of it, of rows that were `seen`; `given`: those of the fragment."""
        sharing, turns = self.sharing, self.sharing.turns
        assert turns is not None
        columns, mine = self.chunks.columns, sharing.is_mine(fragment.number + part)
        item = sharing.item(part, sharing.place + given)
        try:
            sizes = _sizes(fragment)
            tables = fragment.chunks(columns) if fragment.part is None else fragment.part(columns, part)
            for table in islice(tables, skip, None):
                turns.reach(item)
                chunk, handed = self._made(fragment, table, fragment.start + given, alike=alike)
                seen, given, size = seen + len(table), given + len(table), sizes[part]
                alike = alike.after(fragment.name, chunk.held, chunk.zoned)
                handed.told.update(ends=size is None or seen >= size, parts=len(sizes))
                if mine:
                    sharing.offer(item, handed)
                item = sharing.item(part, sharing.place + given)
                yield chunk, handed
        except Exception:
            if mine:
                turns.offer(item, None)
            raise

    def whole(self, fragment: Fragment, member: int) -> Chunk:
        """A fragment as one chunk, by whoever's turn it is; or, of several parts, each by whoever's turn that is."""
        fragment.check()
        self.sharing.name = _name(fragment)

        def make() -> tuple[Chunk | None, Transfer]:
            sizes = _sizes(fragment)
            if len(sizes) > 1:
                return None, Transfer({}, {"parts": sizes})
            return self._made(fragment, fragment.load(self.chunks.columns), fragment.start)

        def unpack(handed: Transfer) -> tuple[Chunk | None, Transfer]:
            return None if "parts" in handed.told else unpack_chunk(handed, fragment.file, fragment.start), handed

        chunk, handed = self.sharing.once(member, fragment.number, make, lambda made: made[1], unpack)
        if chunk is not None:
            return self._accepted(fragment, chunk, handed)
        try:
            return self.chunks.accept(fragment, joined_chunks(self._parts(fragment, member, handed.told["parts"])))
        except FAULTS:  # what is wrong with a file, all its rows say
            return ChunkReader.whole(self, fragment, member)

    def _parts(self, fragment: Fragment, member: int, sizes: Sequence[int]) -> list[Chunk]:
        """The parts of a fragment: first one's own, then those that the others have made meanwhile."""
        sharing, turns = self.sharing, self.sharing.turns
        assert turns is not None
        ends = np.cumsum(sizes)
        times = cache(lambda: self.chunks.times_of(fragment))  # of all rows: a leap shows among them

        def make(index: int) -> Made:
            assert fragment.part is not None
            start, stop = int(ends[index]) - sizes[index], int(ends[index])
            table = pa.concat_tables(fragment.part(self.chunks.columns, index))
            read = None if self.chunks.predict_at is None else times().slice(start, stop)
            return self._made(fragment, table, fragment.start + start, read)

        found: dict[int, Made] = {}
        for mine in (True, False):
            for index in range(len(sizes)):
                turn, item = fragment.number + index, (*sharing.item(member)[:3], 1 + index)
                if sharing.is_mine(turn) and mine:
                    turns.reach(item)
                    found[index] = sharing.offering(item, partial(make, index), lambda made: made[1])
                elif not sharing.is_mine(turn) and not mine:
                    handed = sharing.ask(item, turn)
                    start = fragment.start + int(ends[index]) - sizes[index]
                    found[index] = (
                        make(index) if handed is None else (unpack_chunk(handed, fragment.file, start), handed)
                    )
        return [self._owned(*found[index]) for index in range(len(sizes))]

    def _made(
        self,
        fragment: Fragment,
        table: pa.Table,
        start: int,
        times: RowTimes | None = None,
        alike: Alike | None = None,
    ) -> Made:
        """All rows of a table, with whose they are; alike: what the chunks before it hold, if that is known here."""
        owner = self.chunks.owner
        maker = replace(self.chunks, owner=None, alike=self.chunks.alike if alike is None else alike)
        chunk = maker.made(fragment, table, start, times)
        handed = pack_chunk(chunk)
        if owner is not None:
            values, codes = owner.marks(table, chunk.row_ids, chunk.times)
            # Arrow's memory is read-only, which no tensor can be.
            handed.tensors["owners"] = torch.from_numpy(codes if codes.flags.writeable else codes.copy())
            handed.told["owners"] = [text(value) for value in values]
        return chunk, handed

    def _owned(self, chunk: Chunk, handed: Transfer) -> Chunk:
        """A chunk without the rows of others."""
        owner = self.chunks.owner
        if owner is not None:
            chunk.own(np.asarray(owner.marked(handed.told["owners"], handed.tensors["owners"].numpy())))
        return chunk

    def _accepted(self, fragment: Fragment, chunk: Chunk, handed: Transfer) -> Chunk:
        return self.chunks.accept(fragment, self._owned(chunk, handed))


def _sizes(fragment: Fragment) -> list[int | None]:
    """The rows of each part of a fragment; None where that takes reading it."""
    sizes = [None] if fragment.parts is None else fragment.parts()
    # Runs without rows are no parts, but for the first.
    return [size for index, size in enumerate(sizes) if size != 0 or not index]


def _name(fragment: Fragment) -> str:
    """What a fragment is, the same for all who read it."""
    return fragment.name if fragment.fingerprint is None else f"{fragment.name} {fragment.fingerprint()}"


def reader_of(chunks: ChunkEncoder, sharing: Sharing) -> ChunkReader:
    """The reader of a stream: alone, or in turns with others."""
    return ChunkReader(chunks) if sharing.turns is None else TurnReader(chunks, sharing)
