"""The live blocks of a timeline: loaded on demand, dropped when no later increment can need them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from incr_core.data.encoding import BadFile
from incr_core.data.sources import Fragment, Source
from incr_core.data.timeline._alike import Alike
from incr_core.data.timeline._block import Block
from incr_core.data.timeline._keys import Learned
from incr_core.data.timeline._loader import Loader, overlapping
from incr_core.data.times import NEVER
from incr_core.errors import StreamError

__all__ = ["LiveBlocks"]


@dataclass(slots=True)
class _Loaded:
    """The record of a loaded block that a resume from here would load again.

    Attributes:
        block: The block; None after a file that ended early.
        fragments: The fragments that end with the block.
        rows: The number of its rows.
        first: The earliest time.
        last_known: The time at which the last outcome becomes known.
        learned: The keys after the block.
        finished: Whether no later increment needs it.
    """

    block: Block | None
    fragments: list[int]
    rows: int
    first: int
    last_known: int
    learned: Learned | None
    finished: bool = False


class LiveBlocks:
    """The blocks of a source that are in memory, and the state from which to resume.

    Files found since the cursor was saved arrive at the time of the cursor.

    Args:
        source: The source of the rows.
        loader: The loader of its fragments; it keeps the outcomes and keys of the loaded rows.
        cursor: The position of an earlier run; {} at the beginning.

    Attributes:
        live: The blocks, in order.
        loaded: The number of rows of the stream loaded so far.
        learned: The keys that a resume needs besides the cursor, if rows have keys.
    """

    def __init__(self, source: Source, loader: Loader, cursor: dict[str, Any]) -> None:
        self.source, self.loader = source, loader
        self.live: list[Block] = []
        self.loaded: int = cursor.get("rows", 0)
        self.learned = loader.learned
        self.bad_files: list[BadFile] = []
        self._origin: int | None = cursor.get("origin")
        self._done_ranges = cursor.get("done", [])
        self._done = {number for start, stop in self._done_ranges for number in range(start, stop)}
        self._rows_done = self._rows_dropped = self.loaded
        # Bad files: number -> fingerprint, and the number of rows returned before the fault. Replaced, never modified.
        self._rejected: dict[str, tuple[str, int]] = {
            number: (fingerprint, rows) for number, (fingerprint, rows) in cursor.get("rejected", {}).items()
        }
        self._floors: dict[str, int] = dict(cursor.get("floors", {}))
        if "fragments" in cursor:
            self._resume(cursor)
        else:
            source.begin()
        loader.on_bad_file = self._reject
        loader.chunks.floors = {int(number): floor for number, floor in self._floors.items()}
        loader.chunks.alike = Alike(cursor.get("alike"))
        self._names: list[str] = []  # shared by cursors: replaced, never modified
        self._fingerprints: dict[str, str] = {}  # the same
        self._kept: deque[_Loaded] = deque()
        self._latest = -NEVER
        predict_at = loader.chunks.predict_at
        self._upcoming = overlapping(
            source.fragments(
                predict_at,
                skip=frozenset(self._done | {int(number) for number, (_, rows) in self._rejected.items() if not rows}),
                floors=loader.chunks.floors,
                origin=self._origin,
                leap=loader.chunks.leap,
                on_bad_file=self._reject if loader.chunks.tolerant else None,
            ),
            predict_at is not None,
        )
        self._next: list[Fragment] | None = None
        self._ended = False
        self._loading: Generator[tuple[Block, bool]] | None = None
        if self._origin is None and predict_at is not None:
            self._origin = self.coming

    def _resume(self, cursor: dict[str, Any]) -> None:
        """Number the source's fragments as in the cursor, and let those found since then arrive at the time of the
        cursor.
        """
        known = cursor["fragments"]
        late = self.source.resume(known, cursor.get("fingerprints", {}), cursor.get("appended", ()), self._rejected)
        time = cursor.get("time")
        if time is None:
            return
        for number in (*late, *self._changed_since()):
            # Those with the ids of known files come after all rows that have arrived.
            again = number < len(known) or number >= len(self.source.names)
            self._floors.pop(str(number), None)
            self._floors[str(number)] = time + 1 if again else time

    def _changed_since(self) -> list[int]:
        """Return the numbers of bad files that have changed and must be read again; appended rows are separate
        fragments.
        """
        changed = [
            number
            for number, (known, rows) in self._rejected.items()
            if not rows
            and not self.source.closed
            and int(number) < len(self.source.names)
            and self.source.fingerprint(self.source.name_of(int(number))) not in (None, known)
        ]
        self._rejected = {number: bad for number, bad in self._rejected.items() if number not in changed}
        return [int(number) for number in changed]

    # -- loading

    @property
    def coming(self) -> int | None:
        """The first time of the next block to load; None if everything is loaded."""
        following = self._following()
        return following[0].first if following else None

    def _following(self) -> list[Fragment] | None:
        """Return the next fragments to load, searched for only on demand because a Python source may take long to
        return them.
        """
        if self._next is None and not self._ended:
            self._next = next(self._upcoming, None)
            self._ended = self._next is None
        return self._next

    def load_any(self) -> None:
        """Load until there is at least one row; raise StreamError if the source has none."""
        while self.loaded == 0 and self.load():
            pass
        if self.loaded == 0:
            names = self.source.names
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            if self.source.young:
                raise StreamError(
                    f"stream.path: expected rows, got files still being written ({', '.join(self.source.young)}); wait "
                    "until they are whole, or lower stream.settle"
                )
            if self.bad_files:
                raise StreamError(f"stream.path: expected rows, got none that can be used: {self.bad_files[0].reason}")
            raise StreamError(f"stream.path: expected rows, got none in {shown or 'the source'}; write some first")

    def load_again(self, place: int) -> None:
        """Load the rows before `place` that are still needed; raise StreamError if the source has fewer rows."""
        while self.loaded < place and self.load():
            pass
        if self.loaded < place:
            raise StreamError(
                f"stream.path: expected the {place} rows this run has seen, got {self.loaded}; "
                "a stream may only grow: restore the removed rows"
            )

    def load(self) -> bool:
        """Load the next block, or find that the next files cannot be used; return False if nothing is left."""
        if self._loading is None:
            following = self._following()
            if following is None:
                return False
            if self._kept and self.loader.chunks.predict_at and following[0].first < self._latest:
                raise StreamError(
                    f"{following[0].name}: expected times not before those of the table before it, got earlier ones; "
                    "a Python source must give its tables in time order"
                )
            self._loading = self.loader.blocks(following, self.loaded)
        found = next(self._loading, None)
        if found is None:
            self._end_early()
            return True
        block, last = found
        block.start = self.loaded
        self.loaded += len(block)
        self._latest = int(block.times.max(initial=self._latest))
        self.live.append(block)
        whole = block.fragments if last else []
        self._kept.append(_Loaded(block, whole, len(block), block.first, block.last_known, self.loader.learned))
        if last:
            self._loading = self._next = None
        return True

    def close(self) -> None:
        """Stop the thread that reads ahead."""
        if self._loading is not None:
            self._loading.close()

    # -- bad files

    def _end_early(self) -> None:
        """Stop loading the current fragments, whose other rows cannot be used, and keep the rows already returned."""
        given = [fragment.number for fragment in self._next or [] if self._rejected[str(fragment.number)][1]]
        if given:
            self._kept.append(_Loaded(None, given, 0, self._latest, -NEVER, self.loader.learned, finished=True))
        self._loading = self._next = None

    def _reject(self, fragment: Fragment, rows: int, fault: Exception) -> None:
        """Skip a file, or the rest of it."""
        number = str(fragment.number)
        if number in self._rejected:  # rejected before a resume: it is read up to the same fault
            return
        fingerprint = self.source.fingerprint(fragment.name) or ""
        self._rejected = self._rejected | {number: (fingerprint, rows)}
        self.bad_files.append(BadFile(fragment.name, str(fault), fingerprint, rows))
        if not rows:  # it is read again if it changes
            self.source.drop_fingerprint(fragment.number)
            self._fingerprints = {}

    def take_bad_files(self) -> list[BadFile]:
        """Return the bad files found since the last call."""
        found, self.bad_files = self.bad_files, []
        return found

    # -- dropping, and where to resume

    def drop(self, place: int, time: int | None) -> None:
        """Drop the blocks that no later increment can need.

        They arrived before `place`, their labels are due before `time`, and they are outside the window of every rate.
        """
        finished = {id(block) for block in self.live if _is_finished(block, place, time)}
        if finished:
            self.live = [block for block in self.live if id(block) not in finished]
            for kept in self._kept:
                if id(kept.block) in finished:
                    kept.finished, kept.block = True, None
        if not self._kept or not self._kept[0].finished:
            return
        rates = self.loader.chunks.rates
        # Features of the first unfinished block must be the same after a resume, so the whole window before it is kept.
        core = next((kept for kept in self._kept if not kept.finished), self._kept[-1])
        windows = [rate.window_us for rate in rates if rate.window_us is not None]
        while self._kept and self._kept[0].finished and len(windows) == len(rates):
            oldest = self._kept[0]
            if rates and (oldest is core or oldest.last_known >= core.first - max(windows)):
                break
            self._kept.popleft()
            self._rows_dropped += oldest.rows
            if oldest.fragments:  # otherwise it is a chunk, and a resume reads its file from the beginning
                self._rows_done, self.learned = self._rows_dropped, oldest.learned
                self._done |= set(oldest.fragments)
                self._done_ranges = _ranges(self._done)

    def cursor(self) -> dict[str, Any]:
        """Return the state a resume needs, as JSON.

        Its keys: `fragments`, `fingerprints` and `appended` describe the source; `floors` maps the number of a fragment
        found
        late to its arrival time; `origin` is the earliest time; `done` and `rows` are the fragments no longer needed
        and the
        number of their rows; `rejected` maps the number of a bad file to its fingerprint and the number of rows
        returned from
        it; `alike` is the state of the consistency checks between files.
        """
        if len(self._names) != len(self.source.names):
            self._names = list(self.source.names)
        if len(self._fingerprints) != len(self.source.fingerprints):
            self._fingerprints = dict(self.source.fingerprints)
        return {
            "fragments": self._names,
            "fingerprints": self._fingerprints,
            "appended": [list(rows) for rows in self.source.appended],
            "floors": self._floors,
            "origin": self._origin,
            "done": self._done_ranges,
            "rows": self._rows_done,
            "rejected": self._rejected,
            "alike": self.loader.chunks.alike.seen,
        }


def _is_finished(block: Block, place: int, time: int | None) -> bool:
    labelled = len(block.labels) == 0 or (time is not None and block.last_label < time)
    return labelled and block.stop <= place


def _ranges(numbers: set[int]) -> list[list[int]]:
    """Return sorted numbers as [start, stop) pairs."""
    pairs: list[list[int]] = []
    for number in sorted(numbers):
        if pairs and pairs[-1][1] == number:
            pairs[-1][1] = number + 1
        else:
            pairs.append([number, number + 1])
    return pairs
