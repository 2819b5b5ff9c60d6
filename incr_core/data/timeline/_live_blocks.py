"""The window of a timeline: the groups in memory, loaded as they are needed, dropped when nobody will ask for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from incr_core.data.encoding import BadFile
from incr_core.data.rates import History
from incr_core.data.sources import Fragment, Source
from incr_core.data.timeline._alike import Alike
from incr_core.data.timeline._keys import Learned
from incr_core.data.timeline._loader import Group, Loader, Past, together
from incr_core.data.times import NEVER
from incr_core.errors import StreamError

__all__ = ["Window"]


@dataclass(slots=True)
class _Seen:
    """A group that was loaded, and must be loaded again by whoever resumes here.

    fragments: those that end with it. learned: the keys after it.
    """

    group: Group | None
    fragments: list[int]
    rows: int
    first: int
    last_known: int
    learned: Learned | None
    finished: bool = False


class Window:
    """The groups of a source that are in memory, and the outcomes known from those that are not any more.

    cursor: where an earlier window stood; time: up to which its increments went. Files found since then count as
    arriving then.

    live: the groups, in order. bad_files: those found to be unusable that nobody was told of yet. loaded: how many
    rows of the stream were loaded so far. history: their outcomes. learned: where rows have keys, those that another
    window needs to stand where this one does, beside the cursor.
    """

    def __init__(
        self,
        source: Source,
        loader: Loader,
        cursor: dict[str, Any],
        time: int | None,
        learned: Learned | None = None,
    ) -> None:
        self.source, self.loader = source, loader
        self.live: list[Group] = []
        self.bad_files: list[BadFile] = []
        self.loaded: int = cursor.get("rows", 0)
        self.learned = learned
        self._past = Past(History(loader.rates), learned)
        self._origin: int | None = cursor.get("origin")
        self._done_ranges = cursor.get("done", [])
        self._done = {number for start, stop in self._done_ranges for number in range(start, stop)}
        self._rows_done = self._rows_dropped = self.loaded
        self._floors: dict[str, int] = dict(cursor.get("floors", {}))
        # Bad files: number -> what it was, and how many rows were given out of it before. Replaced, never changed.
        self._refused: dict[str, tuple[str, int]] = {
            number: (mark, rows) for number, (mark, rows) in cursor.get("refused", {}).items()
        }
        if "fragments" in cursor:
            late = source.resume(cursor["fragments"], cursor.get("marks", {}), cursor.get("pieces", ()), self._refused)
            if time is not None:
                for number in (*late, *self._changed_since()):
                    # Those with the ids of files known before come behind all rows that have arrived.
                    again = number < len(cursor["fragments"]) or number >= len(source.names)
                    self._floors.pop(str(number), None)
                    self._floors[str(number)] = time + 1 if again else time
        else:
            source.begin()
        if loader.on_bad_file is not None:
            loader.on_bad_file = self._refuse
        loader.floors = {int(number): floor for number, floor in self._floors.items()}
        loader.alike = Alike(cursor.get("alike"))
        self._names: list[str] = []  # shared by cursors: never changed, only replaced
        self._marks: dict[str, str] = {}  # the same
        self._seen: deque[_Seen] = deque()
        self._latest = -NEVER
        self._groups = together(
            source.fragments(
                loader.predict_at,
                skip=frozenset(self._done | {int(number) for number, (_, rows) in self._refused.items() if not rows}),
                floors=loader.floors,
                origin=self._origin,
                leap=loader.leap,
                on_bad_file=loader.on_bad_file,
            ),
            loader.predict_at is not None,
        )
        self._next: list[Fragment] | None = None
        self._ended = False
        self._loading: Generator[tuple[Group, Past, bool]] | None = None
        if self._origin is None and loader.predict_at is not None:
            self._origin = self.coming

    @property
    def history(self) -> History:
        """The outcomes of all rows loaded."""
        return self._past.history

    @property
    def coming(self) -> int | None:
        """The first time of what will be loaded next; None where all is loaded."""
        following = self._following()
        return following[0].first if following else None

    def _following(self) -> list[Fragment] | None:
        """What will be loaded next. Only looked for when it is asked for: it may be long in coming."""
        if self._next is None and not self._ended:
            self._next = next(self._groups, None)
            self._ended = self._next is None
        return self._next

    def load_any(self) -> None:
        """Load until there is a row. Raises StreamError where the source has none."""
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
        """Load what had arrived before `place` and is still needed. Raises StreamError where it is not there."""
        while self.loaded < place and self.load():
            pass
        if self.loaded < place:
            raise StreamError(
                f"stream.path: expected the {place} rows this run has seen, got {self.loaded}; "
                "a stream may only grow: put back what was taken away"
            )

    def load(self) -> bool:
        """Load the next group, or find that there is nothing to be used of it; False where there is none."""
        if self._loading is None:
            following = self._following()
            if following is None:
                return False
            if self._seen and self.loader.predict_at and following[0].first < self._latest:
                raise StreamError(
                    f"{following[0].name}: expected times not before those of the part before it, got earlier ones; "
                    "a Python source must give its parts in time order"
                )
            self._loading = self.loader.groups(following, self._past)
        found = next(self._loading, None)
        if found is None:
            self._end_without_more()
            return True
        group, self._past, last = found
        group.start = self.loaded
        self.loaded += len(group)
        self._latest = int(group.times.max(initial=self._latest))
        self.live.append(group)
        whole = group.fragments if last else []
        self._seen.append(_Seen(group, whole, len(group), group.first, group.last_known, self._past.learned))
        if last:
            self._loading = self._next = None
        return True

    def _end_without_more(self) -> None:
        """What is being loaded cannot be used, or the rest of it cannot: it ends with what was loaded of it."""
        given = [fragment.number for fragment in self._next or [] if self._refused[str(fragment.number)][1]]
        if given:
            self._seen.append(_Seen(None, given, 0, self._latest, -NEVER, self._past.learned, finished=True))
        self._loading = self._next = None

    def _refuse(self, fragment: Fragment, rows: int, fault: Exception) -> None:
        """Go on without a file, or the rest of it."""
        number = str(fragment.number)
        if number in self._refused:  # before a resume, that is read up to the same fault
            return
        mark = self.source.mark(fragment.name) or ""
        self._refused = self._refused | {number: (mark, rows)}
        self.bad_files.append(BadFile(fragment.name, str(fault), mark, rows))
        if not rows:  # when it is another file, it may be used after all
            self.source.forget_mark(fragment.number)
            self._marks = {}

    def _changed_since(self) -> list[int]:
        """The numbers of bad files that are others by now, and so to be looked at again."""
        changed = [
            number
            for number, (mark, rows) in self._refused.items()
            if not rows
            and not self.source.closed
            and int(number) < len(self.source.names)  # what is appended to a file is another piece anyway
            and self.source.mark(self.source.name_of(int(number))) not in (None, mark)
        ]
        self._refused = {number: known for number, known in self._refused.items() if number not in changed}
        return [int(number) for number in changed]

    def told(self) -> list[BadFile]:
        """The bad files found since this was last asked."""
        found, self.bad_files = self.bad_files, []
        return found

    def forget(self, place: int, time: int | None) -> None:
        """Drop what no later increment can need: arrived before `place`, labelled before `time`, and out of every
        rate's window."""
        finished = {id(group) for group in self.live if _finished(group, place, time)}
        if finished:
            self.live = [group for group in self.live if id(group) not in finished]
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
                self._rows_done, self.learned = self._rows_dropped, oldest.learned
                self._done |= set(oldest.fragments)
                self._done_ranges = _ranges(self._done)

    def cursor(self) -> dict[str, Any]:
        """What another window needs to stand where this one does, JSON."""
        if len(self._names) != len(self.source.names):
            self._names = list(self.source.names)
        if len(self._marks) != len(self.source.marks):
            self._marks = dict(self.source.marks)
        return {
            "fragments": self._names,
            "marks": self._marks,
            "pieces": self.source.pieces,
            "floors": self._floors,
            "origin": self._origin,
            "done": self._done_ranges,
            "rows": self._rows_done,
            "refused": self._refused,
            "alike": self.loader.alike.seen,
        }


def _finished(group: Group, place: int, time: int | None) -> bool:
    labelled = len(group.labels) == 0 or (time is not None and group.last_label < time)
    return labelled and group.start + len(group) <= place


def _ranges(numbers: set[int]) -> list[list[int]]:
    """Sorted numbers as [start, stop) pairs."""
    pairs: list[list[int]] = []
    for number in sorted(numbers):
        if pairs and pairs[-1][1] == number:
            pairs[-1][1] = number + 1
        else:
            pairs.append([number, number + 1])
    return pairs
