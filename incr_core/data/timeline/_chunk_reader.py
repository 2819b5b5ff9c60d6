"""Fragments to chunks: decoded and encoded here, or, where readers take turns, handed over by whoever did it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice

import numpy as np
import pyarrow as pa

from incr_core.data.encoding import text
from incr_core.data.sources import Fragment
from incr_core.data.timeline._bad_files import FAULTS
from incr_core.data.timeline._block import joined_chunks
from incr_core.data.timeline._chunk import Chunk
from incr_core.data.timeline._chunk_encoder import ChunkEncoder
from incr_core.data.timeline._handed_chunk import pack_chunk, unpack_chunk
from incr_core.data.timeline._row_times import RowTimes
from incr_core.data.timeline._turns import Handed, Item, Sharing

__all__ = ["ChunkReader", "Piece", "TurnReader", "reader_of"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk to be: decoded, or handed over. The other fields say what the other readers must know of it.

    item: what it is to readers who take turns. offered: whether they wait for it. ends: whether it is the last of its
    part of the fragment. parts: how many parts the fragment has.
    """

    made_of: pa.Table | Handed
    item: Item = (0, 0, 0, 0)
    offered: bool = False
    ends: bool = True
    parts: int = 1

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return int(self.made_of.told["rows"]) if isinstance(self.made_of, Handed) else len(self.made_of)


@dataclass(slots=True)
class ChunkReader:
    """Read fragments alone."""

    chunks: ChunkEncoder

    def pieces(self, fragment: Fragment) -> Iterator[Piece]:
        """The chunks of a fragment, before they are encoded; at least one."""
        return map(Piece, fragment.chunks(self.chunks.columns))

    def chunk(self, fragment: Fragment, piece: Piece, start: int) -> Chunk:
        """The chunk of a piece, whose first row is at offset `start` of its file."""
        assert isinstance(piece.made_of, pa.Table)
        return self.chunks.encode(fragment, piece.made_of, start)

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
        """The chunks of a fragment: decoded where it is this reader's turn, and otherwise asked for."""
        fragment.check()
        self.sharing.name = _name(fragment)
        return self._pieces(fragment)

    def _pieces(self, fragment: Fragment) -> Iterator[Piece]:
        sharing = self.sharing
        place, part, parts = sharing.place, 0, 1
        while part < parts:
            turn, count, rows = fragment.number + part, 0, 0
            ended = False
            while not ended and not sharing.is_mine(turn):
                item = sharing.item(part, place)
                if (handed := sharing.ask(item, turn)) is None:
                    break
                ended, parts = handed.told["ends"], handed.told["parts"]
                piece = Piece(handed, item, ends=ended, parts=parts)
                yield piece
                place, rows, count = place + piece.rows, rows + piece.rows, count + 1
            if not ended:
                for piece in self._decoded(fragment, part, place, count, rows):
                    yield piece
                    place, parts = place + piece.rows, piece.parts
            part += 1

    def _decoded(self, fragment: Fragment, part: int, place: int, skip: int, seen: int) -> Iterator[Piece]:
        """What is left of a part after some chunks, `skip`, of rows that were `seen`."""
        sharing, turns = self.sharing, self.sharing.turns
        assert turns is not None
        mine = sharing.is_mine(fragment.number + part)
        try:
            sizes = _sizes(fragment)
            columns = self.chunks.columns
            tables = fragment.chunks(columns) if fragment.part is None else fragment.part(columns, part)
            for table in islice(tables, skip, None):
                seen += len(table)
                size = sizes[part]
                yield Piece(table, sharing.item(part, place), mine, size is None or seen >= size, len(sizes))
                place += len(table)
        except Exception:
            if mine:
                turns.offer(sharing.item(part, place), None)
            raise

    def chunk(self, fragment: Fragment, piece: Piece, start: int) -> Chunk:
        """As of a reader who is alone, once the others have it."""
        sharing, made_of = self.sharing, piece.made_of
        assert sharing.turns is not None
        sharing.turns.reach(piece.item)
        if isinstance(made_of, Handed):
            handed = made_of
            chunk = unpack_chunk(handed, fragment.file, start)
        else:

            def make() -> tuple[Chunk, Handed]:
                return self._made(fragment, made_of, start)

            if piece.offered:
                told = {"ends": piece.ends, "parts": piece.parts}
                chunk, handed = sharing.offering(piece.item, make, lambda made: _telling(made[1], told))
            else:
                chunk, handed = make()
        return self._accepted(fragment, chunk, handed)

    def whole(self, fragment: Fragment, member: int) -> Chunk:
        """A fragment as one chunk, by whoever's turn it is; or, of several parts, each by whoever's turn that is."""
        fragment.check()
        self.sharing.name = _name(fragment)

        def make() -> tuple[Chunk | None, Handed]:
            sizes = _sizes(fragment)
            if len(sizes) > 1:
                return None, Handed({}, {"parts": sizes})
            return self._made(fragment, fragment.load(self.chunks.columns), fragment.start)

        def unpack(handed: Handed) -> tuple[Chunk | None, Handed]:
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

        def make(index: int) -> tuple[Chunk, Handed]:
            assert fragment.part is not None
            start, stop = int(ends[index]) - sizes[index], int(ends[index])
            table = pa.concat_tables(fragment.part(self.chunks.columns, index))
            read = None if self.chunks.predict_at is None else times().part(start, stop)
            return self._made(fragment, table, fragment.start + start, read)

        found: dict[int, tuple[Chunk, Handed]] = {}
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
        self, fragment: Fragment, table: pa.Table, start: int, times: RowTimes | None = None
    ) -> tuple[Chunk, Handed]:
        """All rows of a table, and the same to be handed over, with whose they are."""
        owner = self.chunks.owner
        chunk = replace(self.chunks, owner=None).made(fragment, table, start, times)
        handed = pack_chunk(chunk)
        if owner is not None:
            values, handed.arrays["owners"] = owner.marks(table)
            handed.told["owners"] = [text(value) for value in values]
        return chunk, handed

    def _owned(self, chunk: Chunk, handed: Handed) -> Chunk:
        """A chunk without the rows of others."""
        owner = self.chunks.owner
        if owner is not None:
            chunk.own(np.asarray(owner.marked(handed.told["owners"], handed.arrays["owners"])))
        return chunk

    def _accepted(self, fragment: Fragment, chunk: Chunk, handed: Handed) -> Chunk:
        return self.chunks.accept(fragment, self._owned(chunk, handed))


def _sizes(fragment: Fragment) -> list[int | None]:
    """The rows of each part of a fragment; None where that takes reading it."""
    sizes = [None] if fragment.parts is None else fragment.parts()
    # Runs without rows are no parts, but for the first.
    return [size for index, size in enumerate(sizes) if size != 0 or not index]


def _name(fragment: Fragment) -> str:
    """What a fragment is, the same for all who read it."""
    return fragment.name if fragment.fingerprint is None else f"{fragment.name} {fragment.fingerprint()}"


def _telling(handed: Handed, told: Mapping[str, object]) -> Handed:
    handed.told.update(told)
    return handed


def reader_of(chunks: ChunkEncoder, sharing: Sharing) -> ChunkReader:
    """The reader of a stream: alone, or in turns with others."""
    return ChunkReader(chunks) if sharing.turns is None else TurnReader(chunks, sharing)
