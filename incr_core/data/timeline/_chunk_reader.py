"""Reading of fragments as chunks: decoded and encoded here or, with readers in turns, received from another reader."""

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
"""A chunk of all rows, and the form in which it is transferred."""

Piece: TypeAlias = pa.Table | Made
"""A chunk that may not be encoded yet."""


@dataclass(slots=True)
class ChunkReader:
    """Reads fragments without other readers."""

    chunks: ChunkEncoder

    def pieces(self, fragment: Fragment) -> Iterator[Piece]:
        """Return the chunks of a fragment, at least one, not yet encoded."""
        return fragment.chunks(self.chunks.columns)

    def chunk(self, fragment: Fragment, piece: Piece, start: int) -> Chunk:
        """Return the chunk of a piece whose first row is at offset `start` of its file."""
        return self.chunks.encode(fragment, piece, start)

    def whole(self, fragment: Fragment, member: int) -> Chunk:
        """Return a fragment as one chunk; `member` is its number among the fragments loaded together."""
        return self.chunks.encode(fragment, fragment.load(self.chunks.columns), fragment.start)


@dataclass(slots=True)
class TurnReader(ChunkReader):
    """Reads fragments in turns with other readers: runs of row groups of Parquet files, or whole files.

    The reader whose turn it is encodes all rows, so it does not need to know the owner of each.
    """

    sharing: Sharing

    def pieces(self, fragment: Fragment) -> Iterator[Piece]:
        """Yield the chunks of a fragment: created here in this reader's turns, otherwise requested.

        Chunks created here are encoded and offered before this reader needs them, because others may need them earlier.
        """
        fragment.check()
        self.sharing.name = _name(fragment)
        return self._pieces(fragment)

    def chunk(self, fragment: Fragment, piece: Piece, start: int) -> Chunk:
        """Return the owned rows of a piece."""
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
        """Yield the rest of a part.

        Args:
            fragment: The fragment.
            part: The number of the part.
            given: The rows of the fragment already returned.
            skip: The chunks of the part to skip.
            seen: The rows of the skipped chunks.
            alike: The state of the consistency checks before the part.
        """
        sharing, turns = self.sharing, self.sharing.turns
        assert turns is not None
        columns, mine = self.chunks.columns, sharing.is_mine(fragment.number + part)
        item = sharing.item(part, sharing.place + given)
        try:
            sizes = _sizes(fragment)
            tables = fragment.chunks(columns) if fragment.read_part is None else fragment.read_part(columns, part)
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
        """Return a fragment as one chunk, from the reader whose turn it is; its parts, if several, may have different
        readers.
        """
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
        except FAULTS:  # every reader finds a fault of a file by itself
            return ChunkReader.whole(self, fragment, member)

    def _parts(self, fragment: Fragment, member: int, sizes: Sequence[int]) -> list[Chunk]:
        """Return the parts of a fragment: first this reader's own, then those that others created meanwhile."""
        sharing, turns = self.sharing, self.sharing.turns
        assert turns is not None
        ends = np.cumsum(sizes)
        times = cache(lambda: self.chunks.times_of(fragment))  # of all rows, because a leap is visible only among them

        def make(index: int) -> Made:
            assert fragment.read_part is not None
            start, stop = int(ends[index]) - sizes[index], int(ends[index])
            table = pa.concat_tables(fragment.read_part(self.chunks.columns, index))
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
        """Encode all rows of a table, with their owners; `alike` is the state before the chunk, if known here."""
        owner = self.chunks.owner
        maker = replace(self.chunks, owner=None, alike=self.chunks.alike if alike is None else alike)
        chunk = maker.made(fragment, table, start, times)
        handed = pack_chunk(chunk)
        if owner is not None:
            values, codes = owner.marks(table, chunk.row_ids, chunk.times)
            # Arrow's memory is read-only, which tensors do not support.
            handed.tensors["owners"] = torch.from_numpy(codes if codes.flags.writeable else codes.copy())
            handed.told["owners"] = [text(value) for value in values]
        return chunk, handed

    def _owned(self, chunk: Chunk, handed: Transfer) -> Chunk:
        """Return a chunk without the rows of other owners."""
        owner = self.chunks.owner
        if owner is not None:
            chunk.own(np.asarray(owner.marked(handed.told["owners"], handed.tensors["owners"].numpy())))
        return chunk

    def _accepted(self, fragment: Fragment, chunk: Chunk, handed: Transfer) -> Chunk:
        return self.chunks.accept(fragment, self._owned(chunk, handed))


def _sizes(fragment: Fragment) -> list[int | None]:
    """Return the number of rows of each part of a fragment; None if it is known only after reading."""
    sizes = [None] if fragment.part_rows is None else fragment.part_rows()
    # Only the first part may be empty.
    return [size for index, size in enumerate(sizes) if size != 0 or not index]


def _name(fragment: Fragment) -> str:
    """Return the name of a fragment, the same for all readers."""
    return fragment.name if fragment.fingerprint is None else f"{fragment.name} {fragment.fingerprint()}"


def reader_of(chunks: ChunkEncoder, sharing: Sharing) -> ChunkReader:
    """Return the reader of a stream: one without other readers, or one that takes turns."""
    return ChunkReader(chunks) if sharing.turns is None else TurnReader(chunks, sharing)
