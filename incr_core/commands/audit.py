"""Audit of a run directory: proves that every row of the stream is in exactly one state."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from incr_core.data import RowSet
from incr_core.data.timeline import Standing
from incr_core.engines import at_owner
from incr_core.errors import ArgumentError, CheckpointError, JobError, StreamError
from incr_core.job import Job
from incr_core.registry import Committed, RowStates, Violation, erased, loop_state, require_run, states_of
from incr_core.registry.ledger import count
from incr_core.storage import checkpoint, located

__all__ = ["Audit", "audit", "described", "owners_audit"]

TRIES = 5
"""Maximum number of readings of a run that is written at the same time, since a reading may mix two moments."""

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(slots=True)
class Audit:
    """The result of the audit of a run at its newest version.

    Attributes:
        version: The newest version; None without one.
        states: Number of rows in each state.
        files: Number of files of the stream that exist.
        gone: Files that no longer exist.
        bad_files: Number of files in quarantine.
        violations: Contradictions that were found.
        unproven: Claims that could not be checked, in words.
        baselines: Audits of the baselines beside the run, by name.
    """

    version: int | None
    states: RowStates
    files: int
    gone: list[str]
    bad_files: int
    violations: list[Violation]
    unproven: list[str] = field(default_factory=list)
    baselines: dict[str, Audit] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether no violation was found, in the run and its baselines."""
        return not self.violations and all(one.holds for one in self.baselines.values())

    def document(self) -> dict[str, Any]:
        """Return the audit as JSON values."""
        return {
            "holds": self.holds,
            "version": self.version,
            "rows": self.states.rows,
            "states": self.states.states,
            "pending": self.states.pending,
            "erased_after_learned": self.states.learned_erased,
            "participants": self.states.participants,
            "files": self.files,
            "files_gone": self.gone,
            "files_quarantined": self.bad_files,
            "unproven": self.unproven,
            "violations": [
                {"place": one.place, "expected": one.expected, "got": one.got, "remedy": one.remedy}
                for one in self.violations
            ],
            "baselines": {name: one.document() for name, one in self.baselines.items()},
        }


def audit(directory: str | Path) -> Audit:
    """Prove that every row of a run is in exactly one state, and that the committed files are consistent.

    The audit reads the job, the stream's files, every version, the tables, and the newest states of participants. It
    changes nothing, and a run that is writing is not stopped. `Committed` and `RowStates` document the checks.

    Raises:
        RunDirectoryError: There is no run.
    """
    folder = located(directory)
    found = _settled(folder)
    for file in sorted(folder.glob("baselines/*/job.toml")):
        found.baselines[file.parent.name] = _settled(file.parent)
    return found


def owners_audit(file: str) -> dict[str, Audit]:
    """Return the audit of an owner's rows for each run in which the owner took part.

    `file` is the client's CLIENT.toml.
    """
    return {
        name: Audit(
            None,
            states,
            len(set(standing.names) - set(standing.gone)),
            standing.gone,
            len(standing.bad_files),
            states.violations,
            unproven,
        )
        for name, (standing, states, unproven) in at_owner().row_states(file).items()
    }


def _settled(folder: Path) -> Audit:
    """Return the audit of one run. If it finds a violation and the run has changed meanwhile, the audit is repeated."""
    require_run(folder)
    for _ in range(TRIES):
        before, found = _stamp(folder), _audit(folder)
        if not found.violations or before == _stamp(folder):
            break
    return found


def _stamp(folder: Path) -> list[tuple[str, int]]:
    """Return the files that change when a run commits, prunes or erases, with their times."""
    found = []
    for pattern in ("versions/*/*", "segments.json", "eras*", "state/*/*"):
        for file in folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                found.append((str(file), file.stat().st_mtime_ns))
    return sorted(found)


def _audit(folder: Path) -> Audit:
    committed = Committed.read(folder)
    version = committed.versions[-1] if committed.versions else None
    violations, unproven = list(committed.violations), list[str]()
    job = Job.from_document(tomllib.loads((folder / "job.toml").read_text()), place=str(folder / "job.toml"))
    states = _States.read(folder, version, violations)
    cursor: dict[str, Any] | None = {} if version is None else states.cursor
    owned = job.federated.owned
    if owned:
        violations += _not_numbered(folder, version, committed)
        unproven.append(
            "which rows the numbers are, and that no row of an owner is without one: incr audit CLIENT.toml proves it "
            "on the owner's machine, and summary.json has the hash of its ledger"
        )
    elif states.elsewhere:
        unproven.append(
            f"which rows are held until their turn: {_listed(states.elsewhere)} keeps no state of version {version} "
            "here (a client on a SuperNode elsewhere keeps its own)"
        )
    standing, has_files = _standing(job, committed, cursor, [] if owned else unproven)
    as_it_passes = job.stream.label_at is None and cursor is not None and not states.elsewhere
    place = int((cursor or {}).get("place", 0)) if as_it_passes else None
    held = {name: RowSet.of_ids(rows) for name, rows in states.held.items()}
    rows = RowStates.of(
        committed.tables,
        erased(folder),
        standing,
        held,
        frozen=job.learner.frozen,
        all_held=not states.elsewhere,
        place=place,
        has_files=has_files,
    )
    if standing.unproven is not None:
        unproven.append(f"which rows are due: {standing.unproven}")
    if standing.gone:
        unproven.append(
            f"rows of files that are gone ({_listed(standing.gone)}): they are known from the run's tables alone"
        )
    if standing.uncounted:
        unproven.append(f"how many rows there are in files that cannot be read: {_listed(standing.uncounted)}")
    return Audit(
        version,
        rows,
        len(set(standing.names) - set(standing.gone)) if has_files else 0,
        standing.gone,
        len(standing.bad_files),
        [*violations, *rows.violations],
        unproven,
    )


def _not_numbered(folder: Path, version: int | None, committed: Committed) -> list[Violation]:
    """Return violations for owners whose rows in the tables are fewer or more than they have reported."""
    found = list[Violation]()
    with contextlib.suppress(CheckpointError):  # reported with the versions
        members = [] if version is None else loop_state(folder, version)["engine"]["owners"]["members"]
        for member in members:
            mine = {
                name: table.filter(pc.equal(table["fragment"], member["name"]))
                for name in ("ledger", "duplicates", "dropped", "quarantine")
                if (table := committed.tables[name]).num_rows
            }
            rows = sum(table.num_rows if name == "quarantine" else count(table) for name, table in mine.items())
            if rows != member["told"]:
                remedy = "go back to a copy of the run"
                found.append(
                    Violation(f"owner {member['name']}", f"{member['told']:,} rows, as reported", f"{rows:,}", remedy)
                )
    return found


def _standing(
    job: Job, committed: Committed, cursor: dict[str, Any] | None, unproven: list[str]
) -> tuple[Standing, bool]:
    """Return the position of the run in its files, and whether it has files that can be read."""
    try:
        if cursor is not None:
            return job.data().standing(cursor), True
        found = job.data().standing({"fragments": _fragments(committed, cursor)})
    except (ArgumentError, JobError, StreamError) as fault:
        unproven.append(f"that every row of the stream is in the tables, and none that is not: {fault}")
        return Standing(_fragments(committed, cursor), 0), False
    found.unproven = "no participant's state is stored here, which has the run's place in the stream"
    return found, True


def _fragments(committed: Committed, cursor: Mapping[str, Any] | None) -> list[str]:
    names = dict.fromkeys((cursor or {}).get("fragments", ()))
    for table in (committed.tables[name] for name in ("ledger", "duplicates", "dropped", "quarantine")):
        if table.num_rows:
            names |= dict.fromkeys(table["fragment"].unique().to_pylist())
    return list(names)


@dataclass(slots=True)
class _States:
    """States of the participants at a version: the common place in the stream, and the rows that each has yet to learn.

    Attributes:
        cursor: The place in the stream.
        held: Ids of the rows that a participant has yet to learn.
        elsewhere: Participants without a state here.
    """

    cursor: dict[str, Any] | None = None
    held: dict[str, Ints] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, version: int | None, violations: list[Violation]) -> _States:
        """Read the states that participants have stored here."""
        found, first, here, everybody = cls(), "", set[str](), list[str]()
        if version is not None:
            with contextlib.suppress(CheckpointError):  # reported with the versions
                everybody = loop_state(folder, version)["participants"]
        for participant, place in states_of(folder, version) if version is not None else ():
            here.add(participant)
            try:
                state, _ = checkpoint.load(place)
            except CheckpointError as error:
                file, _, what = str(error).partition(": ")
                violations.append(Violation(file, "the state as it was saved", what, "restore it from a copy"))
                continue
            cursor, increment = state["cursor"] or {}, state["increment"]
            if increment is not None and not increment["begun"]:
                found.held[participant] = increment["labelled"]["rows"].numpy()
            if found.cursor is None:
                found.cursor, first = cursor, participant
            elif (mine := _place(cursor)) != (there := _place(found.cursor)):
                remedy = "go back to a copy of the run"
                violations.append(Violation(f"state of {participant}", f"{there}, as {first}", mine, remedy))
        found.elsewhere = [name for name in everybody if name not in here]
        return found


def _place(cursor: Mapping[str, Any]) -> str:
    return f"increment {cursor.get('number', 0)} at row {cursor.get('place', 0)}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def described(found: Audit, whose: str = "") -> str:
    """Return an audit as text: states and rows, participants, unproven claims and violations.

    Args:
        found: The audit.
        whose: The client, for an owner's audit. It replaces the version.
    """
    return "\n".join(_lines(found, whose=whose))


def _lines(found: Audit, name: str = "", whose: str = "") -> Iterator[str]:
    states, what = found.states, f"baseline {name}: " if name else ""
    stands = whose or ("no version yet" if found.version is None else f"version {found.version}")
    wrong = f"{len(found.violations):,} violation{'s' if len(found.violations) > 1 else ''}"
    proven = wrong if found.violations else "every one in exactly one state"
    yield f"{what}{stands}: {states.rows:,} rows in {found.files:,} file{'s' if found.files != 1 else ''}, {proven}"
    for state, rows in states.states.items():
        why = [f"{count:,} {reason}" for reason, count in states.pending.items() if count] if state == "pending" else []
        if state == "erased" and rows:
            why = [f"{states.learned_erased:,} after they were learned"]
        if state == "quarantined" and found.bad_files:
            why = [f"with {found.bad_files:,} whole file{'s' if found.bad_files > 1 else ''}"]
        yield f"  {state:12} {rows:>12,}" + (f"   {', '.join(why)}" if why else "")
    if len(states.participants) > 1 or any(one["held"] for one in states.participants.values()):
        yield f"  {'participant':28} {'learned':>12} {'duplicate':>12} {'held':>12}"
        for participant, counts in states.participants.items():
            yield f"  {participant:28} " + " ".join(f"{count:>12,}" for count in counts.values())
    for one in found.unproven:
        yield f"  not proven: {one}"
    for violation in found.violations:
        yield f"  violation: {violation}"
    for baseline, beside in found.baselines.items():
        yield from _lines(beside, baseline)
