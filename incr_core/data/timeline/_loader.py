"""Loading of fragments as blocks: read, encoded and sorted, with the features that depend on earlier rows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from incr_core._util import prefetch
from incr_core.data.rates import History, with_features
from incr_core.data.sources import Fragment
from incr_core.data.timeline._bad_files import FAULTS
from incr_core.data.timeline._block import Block, sorted_chunks
from incr_core.data.timeline._chunk import Chunk
from incr_core.data.timeline._chunk_encoder import ChunkEncoder
from incr_core.data.timeline._chunk_reader import Piece, reader_of
from incr_core.data.timeline._keys import Learned
from incr_core.data.timeline._turns import Sharing, Transfer
from incr_core.data.times import NEVER
from incr_core.errors import BadRows, StreamError

__all__ = ["Loader", "overlapping"]

RATES = 1 << 30
"""The number of the rates among the items of a block that readers share: after all of its fragments."""


def _ignore(fragment: Fragment, rows: int, fault: Exception) -> None:
    """Skip a bad file without a report."""


@dataclass(slots=True)
class Loader:
    """The conversion of fragments to blocks, and the outcomes and keys of the rows loaded so far.

    Attributes:
        chunks: The conversion of tables to chunks.
        by_fragment: Whether rows arrive fragment by fragment, sorted by time only within each; otherwise by time.
        cold_start: The time at which a warm start ends; by fragment, all rows before it come first.
        history: The outcomes of all loaded rows, for rates.
        learned: The keys of learned rows, if rows have keys.
        aside: Spans of time whose outcomes are excluded from the history.
        on_bad_file: Called with a file that is skipped, the number of its rows returned before, and the fault.
        sharing: The items created in turns with other readers.
    """

    chunks: ChunkEncoder
    by_fragment: bool
    cold_start: int | None
    history: History
    learned: Learned | None
    aside: Sequence[Sequence[int]] = ()
    on_bad_file: Callable[[Fragment, int, Exception], None] = _ignore
    sharing: Sharing = field(default_factory=Sharing)

    def blocks(self, fragments: Sequence[Fragment], place: int = 0) -> Generator[tuple[Block, bool]]:
        """Load fragments that are sorted together, as one block whose first row has the place `place` in the stream.

        If rows keep the order of their files, each chunk of a file is a separate block: one is read while the one
        before is
        encoded, and no more of the file is in memory. The flag marks the last block; no block has it if the rest of a
        file, or
        all files, cannot be used.
        """
        self.sharing.load(place)
        if self.chunks.predict_at is None and not self.by_fragment:
            yield from self._one_by_one(fragments[0])
            return
        usable, chunks = list[Fragment](), list[Chunk]()
        reader = reader_of(self.chunks, self.sharing)
        for member, fragment in enumerate(fragments):
            try:
                chunks.append(reader.whole(fragment, member))
                usable.append(fragment)
            except FAULTS as fault:
                self._pass_over(fragment, 0, fault)
        if chunks:
            yield self._sorted_block(usable, chunks), True

    def _one_by_one(self, fragment: Fragment) -> Generator[tuple[Block, bool]]:
        given = 0
        reader = reader_of(self.chunks, self.sharing)
        found = reader.pieces(fragment)
        # Shared reads use no thread: each reader would have one, and data read by the first is available to all.
        with closing(prefetch(found) if self.chunks.reads is None else (piece for piece in found)) as pieces:
            try:
                piece: Piece | None = next(pieces)
                while piece is not None:
                    chunk = reader.chunk(fragment, piece, fragment.start + given)
                    self._leave_out_duplicates(chunk)
                    given += len(chunk.times)
                    fault: Exception | None = None
                    try:
                        piece = next(pieces, None)
                    except FAULTS as found:
                        fault = found
                    yield self._block([fragment], chunk), piece is None and fault is None
                    if fault is not None:
                        raise fault
            except FAULTS as fault:
                self._pass_over(fragment, given, fault)

    def _sorted_block(self, fragments: Sequence[Fragment], chunks: Sequence[Chunk]) -> Block:
        """Return all rows of some fragments, in order of arrival, with their rates."""
        chunk = chunks[0]
        if len(chunks) > 1 or (self.chunks.predict_at is not None and not chunk.is_in_order):
            chunk = sorted_chunks(chunks, by_fragment=self.by_fragment, first_before=self.cold_start)
        self._leave_out_duplicates(chunk)
        if self.chunks.rates:
            self.history = self.history.since(fragments[0].first).plus(chunk.questions.without(self.aside))
            chunk.batch = with_features(chunk.batch, self._rates(chunk, fragments[0].number))
        return self._block(fragments, chunk)

    def _rates(self, chunk: Chunk, turn: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the rates of a chunk's rows.

        They are shared only with readers of the same owner, and not once outcomes are excluded, because rates computed
        by
        others earlier would still include those outcomes.
        """

        def make() -> np.ndarray[Any, np.dtype[np.float32]]:
            return self.history.features(chunk.questions, chunk.times[chunk.good])

        if self.chunks.owner is not None or self.aside:
            return make()
        return self.sharing.once(
            RATES,
            turn,
            make,
            lambda made: Transfer({"rates": torch.from_numpy(made)}),
            lambda handed: handed.tensors["rates"].numpy(),
        )

    def _block(self, fragments: Sequence[Fragment], chunk: Chunk) -> Block:
        return Block.of(fragments, chunk, delayed=self.chunks.label_at is not None)

    def _leave_out_duplicates(self, chunk: Chunk) -> None:
        """Remove rows that were learned before from a chunk in order of arrival, and record the keys of the others."""
        if self.learned is None or chunk.keys is None:
            return
        good = chunk.good
        learns = chunk.known[good] < NEVER if self.chunks.label_at else np.ones(len(good), dtype=bool)
        found = self.learned.taking(chunk.keys, good, chunk.times[good], learns, len(chunk.times))
        duplicate, self.learned = found
        chunk.leave_out(duplicate)

    def _pass_over(self, fragment: Fragment, rows: int, fault: Exception) -> None:
        if not self.chunks.tolerant or isinstance(fault, BadRows):
            raise fault
        self.on_bad_file(fragment, rows, fault)


def overlapping(fragments: Iterator[Fragment], timed: bool) -> Iterator[list[Fragment]]:
    """Group fragments so that the times of different groups do not overlap and each group can be sorted separately.

    Without times, each fragment is a group as soon as it is found, without waiting for the next one.
    """
    if not timed:
        yield from ([fragment] for fragment in fragments)
        return
    members: list[Fragment] = []
    last = 0
    for fragment in fragments:
        if members and fragment.first < members[0].first:
            raise StreamError(
                f"{fragment.name}: expected times not before those of {members[0].name}, got earlier ones; "
                "a Python source must give its tables in time order"
            )
        # If one ends at the time the next begins, rows with this time are in the order of their ids.
        highest = max((member.file for member in members), default=0)
        overlaps = fragment.first < last or (fragment.first == last and fragment.file < highest)
        if members and not overlaps:
            yield members
            members = []
        last = max(last, fragment.last) if members else fragment.last
        members.append(fragment)
    if members:
        yield members
