"""A run's tables as sets of rows, and checks of them against the stream and each other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from incr_core.data import OFFSET_BITS, RowSet
from incr_core.data.timeline import Standing
from incr_core.registry._violation import Violation
from incr_core.registry.ledger import flat

__all__ = ["RowTables"]

Ints = npt.NDArray[np.int64]

SHOWN = 3
"""The number of rows named in a violation."""

_COPY = "go back to a copy of the run from before, or learn the stream again with another --out"
_MASK = (1 << OFFSET_BITS) - 1


class RowTables:
    """The rows that are learned, quarantined, duplicate and erased according to the tables, and the violations.

    Attributes:
        names: The fragments by number: those of the stream, then others.
        violations: The violations found so far.
    """

    def __init__(self, tables: Mapping[str, pa.Table], erased: pa.Table, standing: Standing, has_files: bool) -> None:
        self.tables, self.standing = tables, standing
        self.violations: list[Violation] = []
        self.names = list(standing.names)
        quarantine = tables["quarantine"]
        if quarantine.num_rows:
            quarantine = quarantine.filter(pc.is_valid(quarantine["row"]))
        for table in (tables["ledger"], tables["duplicates"], self._of("dropped"), quarantine, erased):
            if table.num_rows:
                self.names += sorted(set(table["fragment"].unique().to_pylist()) - set(self.names))
        self._known = len(standing.names)
        self.learned = self._entries("ledger", "learned")
        self.duplicate = self._entries("duplicates", "reported as a duplicate")
        self.dropped = self._entries("dropped", "dropped")
        at = self._addresses(quarantine, "quarantine")
        self.quarantined = RowSet.of_ids(at)
        self.wrong(RowSet.repeated(at, at + 1), "every row in quarantine once", "there twice")
        self.erased = RowSet.of_ids(self._addresses(erased, None))
        if has_files:
            self._foreign()
            self._bad_files()

    # -- reading

    def _of(self, name: str) -> pa.Table:
        """A table of rows; an owner has no rows dropped."""
        return self.tables.get(name, pa.table({}))

    def _numbers(self, table: pa.Table) -> Ints:
        numbers = pc.index_in(table["fragment"], pa.array(self.names, pa.string()))
        return np.asarray(numbers.to_numpy(), np.int64)

    def _addresses(self, table: pa.Table, place: str | None) -> Ints:
        """Return the ids of rows listed by address; an impossible offset is a violation if `place` is given."""
        if not table.num_rows:
            return np.empty(0, np.int64)
        number = self._numbers(table)
        # A null offset is not an address; -1 is refused like other impossible offsets.
        offset = np.asarray(pc.fill_null(table["offset"], -1).to_numpy(), np.int64)
        inside = (offset >= 0) & (offset <= _MASK)
        if place is not None and not inside.all():
            at = int(np.flatnonzero(~inside)[0])
            self._no_offset(place, f"{offset[at]} of {self.names[number[at]]}")
        return np.asarray((number << OFFSET_BITS) + offset)[inside]

    def _entries(self, name: str, verb: str) -> RowSet:
        """The rows of a ledger; a row that is in it twice is a violation that names its participants."""
        table = self._of(name)
        if not table.num_rows:
            return RowSet()
        entry, start, stop = flat(table)
        number = self._numbers(table)[entry]
        inside = (start >= 0) & (stop <= _MASK + 1)
        if not inside.all():
            at = int(np.flatnonzero(~inside)[0])
            self._no_offset(name, f"{start[at]} to {stop[at]} of {self.names[number[at]]}")
        base = number << OFFSET_BITS
        starts, stops = (base + start)[inside], (base + stop)[inside]
        twice = RowSet.repeated(starts, stops)
        if len(twice):
            row = twice.first(1)[0]
            holders = entry[inside][(starts <= row) & (row < stops)].tolist()
            by = [f"{table['participant'][i].as_py()} in version {table['version'][i].as_py()}" for i in holders]
            self.wrong(twice, f"every row {verb} once", f"{verb} by {' and by '.join(by)}")
        return RowSet.of_intervals(starts, stops)

    def _no_offset(self, place: str, got: str) -> None:
        expected = f"offsets from 0 to {_MASK:,}"
        self.violations.append(Violation(place, expected, got, _COPY))

    def names_in(self, name: str) -> list[str]:
        """Return the participants in a ledger."""
        table = self.tables[name]
        return sorted(table["participant"].unique().to_pylist()) if table.num_rows else []

    def count(self, name: str, participant: str) -> int:
        """Return the number of rows of a participant in a ledger."""
        table = self.tables[name]
        if not table.num_rows:
            return 0
        return int(table["rows"].to_numpy()[table["participant"].to_numpy(zero_copy_only=False) == participant].sum())

    # -- checking

    def wrong(self, rows: RowSet, expected: str, got: str, remedy: str = _COPY) -> None:
        """Record a violation by these rows, if there are any, with the first addresses and the number of rows."""
        if not len(rows):
            return
        shown = [f"row {row & _MASK} of {self.names[row >> OFFSET_BITS]}" for row in rows.first(SHOWN)]
        more = f" and {len(rows) - len(shown):,} more" if len(rows) > len(shown) else ""
        self.violations.append(Violation(", ".join(shown) + more, expected, got, remedy))

    def _foreign(self) -> None:
        """Check for rows of files that the run does not know."""
        for number in range(self._known, len(self.names)):
            rows = self._of_files([number])
            kept = (self.learned | self.duplicate | self.dropped | self.quarantined) & rows
            self.wrong(kept, "rows of the stream's files", f"one of {self.names[number]}, which is none of them")

    def _of_files(self, numbers: list[int]) -> RowSet:
        first = np.array(numbers, np.int64) << OFFSET_BITS
        return RowSet.of_intervals(first, first + _MASK + 1)

    def _bad_files(self) -> None:
        """Check that each file that the run skips is in quarantine, with its fingerprint."""
        table = self.tables["quarantine"]
        told = set[tuple[str, str]]()
        if table.num_rows:
            files = table.filter(pc.is_null(table["row"]))
            told = set(zip(files["fragment"].to_pylist(), files["fingerprint"].to_pylist(), strict=True))
        for name, mark, _ in self.standing.bad_files:
            if (name, mark) not in told:
                got = "none: the run passes over that file and nothing says so"
                self.violations.append(Violation("quarantine", f"an entry of {name} ({mark})", got, _COPY))

    def within_files(self, kept: RowSet) -> None:
        """Check that rows in the tables are rows of the files, for files that still exist unchanged."""
        standing = self.standing
        for name, (before, now) in standing.changed.items():
            remedy = "put it back, and add new rows as a new file"
            got = now or "one that cannot be read"
            self.violations.append(Violation(name, f"the file that the run has read ({before})", got, remedy))
        unseen = {*standing.gone, *standing.changed, *standing.uncounted}
        seen = [number for number, name in enumerate(standing.names) if name not in unseen]
        outside = (kept & self._of_files(seen)) - standing.there
        self.wrong(outside, "rows of the stream's files", "one behind the last row of its file")

    def as_many_as_passed(self, accounted: RowSet, passed: int) -> None:
        """If each row is learned when it passes, check that the tables have all rows that have passed, except erased
        ones.
        """
        rows = len(accounted)
        if not passed - len(self.erased - accounted) <= rows <= passed:
            expected = f"the {passed:,} rows that have passed"
            got = f"{rows:,} rows in one of them"
            self.violations.append(Violation("ledger, quarantine, duplicates and dropped", expected, got, _COPY))

    def as_the_stream_stands(self, accounted: RowSet, *, everything: bool) -> None:
        """Check that due rows are in a table, if `everything` must be, and that other rows are not learned."""
        standing = self.standing
        due = standing.finished | standing.due
        if everything:
            lost = due - standing.unlabelled - accounted
            self.wrong(lost, "a row that is due to be learned, or in another table", "in no state at all")
        self.wrong(
            standing.bad - accounted,
            "a row that cannot be used to be in quarantine",
            "in no state at all",
        )
        if standing.unproven is not None:
            return
        unseen = self._of_files(
            [
                number
                for number, name in enumerate(self.names)
                if number >= self._known or name in {*standing.gone, *standing.changed, *standing.uncounted}
            ]
        )
        early = self.learned - (due - standing.unlabelled) - unseen
        early = early & standing.there
        self.wrong(early & standing.unlabelled, "a row without a label time not to be learned", "learned")
        self.wrong(early - standing.unlabelled, "a row to be learned when its turn has come", "learned before")
        arrived = due | standing.awaiting | standing.bad | standing.unlabelled
        told = ((self.duplicate | self.quarantined) - arrived - unseen) & standing.there
        self.wrong(told, "a row to be reported after it has arrived", "in quarantine or a duplicate before")
