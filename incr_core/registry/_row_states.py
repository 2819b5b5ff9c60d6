"""A check, from the committed data of a run, that every row of a stream is in exactly one state.

learned       in the ledger, by one participant in one version
quarantined   the row, its file, or the increment in which it was to be learned could not be used, or the row was set
              aside by hand; the table has the reason for each
duplicate     its key was learned before
dropped       there were more rows than the job's limits allow, and it was not in the sample that was learned
erased        by `incr forget`, whatever its state was before
pending       in the files and not learned: not reached yet, waiting for its label, held by a participant that was
              not drawn, without a label, or skipped by a frozen learner
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

import pyarrow as pa

from incr_core.data import RowSet
from incr_core.data.timeline import Standing
from incr_core.registry._row_tables import RowTables
from incr_core.registry._violation import Violation

__all__ = ["RowStates"]


@dataclass(slots=True)
class RowStates:
    """The number of rows in each state, and the rows that violate the law.

    Attributes:
        states: State -> rows; "in none" only if there is a violation.
        pending: Reason -> rows in the state "pending".
        learned_erased: The number of erased rows that are in the ledger.
        participants: Name -> rows learned, rows that were duplicates, and rows held until its turn.

    Example:
        >>> from incr_core.data import row_ids
        >>> from incr_core.registry import SCHEMA
        >>> from incr_core.registry.ledger import entry_table
        >>> table = entry_table(1, "all", row_ids(0, 1, 4), ["a.csv"], increment=0)
        >>> tables = {"ledger": table, "duplicates": pa.table({}), "quarantine": pa.table({})}
        >>> five, four = RowSet.of_range(0, 5), RowSet.of_range(0, 4)
        >>> found = RowStates.of(tables, SCHEMA.empty_table(), Standing(["a.csv"], 1, there=five, due=four), {})
        >>> found.states["learned"], found.pending["not reached yet"], str(found.violations[0])
        (3, 1, 'row 0 of a.csv: expected a row that is due to be learned, or in another table, got in no state...
    """

    states: dict[str, int]
    pending: dict[str, int]
    learned_erased: int
    participants: dict[str, dict[str, int]]
    violations: list[Violation] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """The total number of rows."""
        return sum(self.states.values())

    @classmethod
    def of(
        cls,
        tables: Mapping[str, pa.Table],
        erased: pa.Table,
        standing: Standing,
        held: Mapping[str, RowSet],
        *,
        frozen: bool = False,
        all_held: bool = True,
        place: int | None = None,
        has_files: bool = True,
    ) -> RowStates:
        """Compute the states of rows from a run's tables, its erased addresses, and its position in the stream.

        Args:
            tables: Name -> table.
            erased: The erased addresses.
            standing: The position in the stream.
            held: Participant -> rows it received and has not yet had its turn to learn.
            frozen: Whether rows after the warm start are not learned.
            all_held: Whether `held` includes every participant.
            place: The number of rows that have passed, if each is learned when it passes.
            has_files: Whether `standing` includes files; otherwise its fragments are those of the tables.
        """
        rows = RowTables(tables, erased, standing, has_files)
        waiting = RowSet()
        for mine in held.values():
            waiting |= mine
        told = [
            ("learned", rows.learned),
            ("in quarantine", rows.quarantined),
            ("a duplicate", rows.duplicate),
            ("dropped", rows.dropped),
            ("held until a participant's turn", waiting),
        ]
        for (one, mine), (other, theirs) in combinations(told, 2):
            rows.wrong(mine & theirs, "every row in one state", f"{one} and {other} at once")
        accounted = rows.learned | rows.quarantined | rows.duplicate | rows.dropped | waiting
        if has_files:
            rows.within_files(accounted - waiting)
            rows.as_the_stream_stands(accounted | rows.erased, everything=all_held and not frozen)
        if place is not None and not frozen:
            rows.as_many_as_passed(accounted, place)
        knows = all_held and standing.unproven is None
        states, pending = _counted(rows, standing, waiting, frozen=frozen, knows=knows)
        participants = {
            name: {
                "learned": rows.count("ledger", name),
                "duplicate": rows.count("duplicates", name),
                "held": len(held.get(name, RowSet())),
            }
            for name in dict.fromkeys([*rows.names_in("ledger"), *rows.names_in("duplicates"), *held])
        }
        return cls(states, pending, len(rows.erased & rows.learned), participants, rows.violations)


def _counted(
    rows: RowTables, standing: Standing, waiting: RowSet, *, frozen: bool, knows: bool
) -> tuple[dict[str, int], dict[str, int]]:
    """Count the rows in each state, and the reasons of pending ones; each row counts once.

    `knows` says whether the due rows are known; otherwise rows that are not learned may be due or not.
    """
    learned, duplicate = rows.learned, rows.duplicate - rows.learned
    quarantined = (rows.quarantined | standing.rejected) - learned - duplicate
    dropped = rows.dropped - learned - duplicate - quarantined
    everything = standing.there | learned | duplicate | quarantined | dropped | waiting
    states = {
        "learned": len(learned - rows.erased),
        "quarantined": len(quarantined - rows.erased),
        "duplicate": len(duplicate - rows.erased),
        **({"dropped": len(dropped - rows.erased)} if dropped else {}),
        "erased": len(rows.erased & everything),
    }
    left = everything - learned - duplicate - quarantined - dropped - rows.erased
    pending = dict[str, int]()
    for reason, mine in (
        ("held by a participant", waiting),
        ("waiting for their labels", standing.awaiting),
        ("without a label", standing.unlabelled),
    ):
        pending[reason], left = len(left & mine), left - mine
    passed_by = left & (standing.finished | standing.due | standing.bad)
    if frozen:
        pending["left alone by a frozen learner"], left = len(passed_by), left - passed_by
    elif knows and len(passed_by):
        states["in none"], left = len(passed_by), left - passed_by
    pending["not reached yet" if knows else "not learned yet"] = len(left)
    states["pending"] = sum(pending.values())
    return states, pending
