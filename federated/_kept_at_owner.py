"""Stored data of an owner's client: erasure on request, and audit, in every run in which it took part.

Both read only the folder of the client's state. An erasure needs exclusive access, so `incr client` must not run. All
weights that have learned a row keep what they have learned.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from federated._client_file import ClientFile
from federated._client_host import KEPT as UNKNOWN
from federated._consent import agreed
from federated._held_back import HeldBack
from federated._owner_ledger import OwnerLedger
from incr_core.data import OFFSET_BITS, RowSet
from incr_core.data.encoding import BadRow, quarantine_table
from incr_core.data.sources import open_source
from incr_core.data.timeline import Standing
from incr_core.errors import ArgumentError, CheckpointError, EngineError, JobError, RunDirectoryError, StreamError
from incr_core.job import Job
from incr_core.registry import RowStates, begin_erasing, erased, erasing, finish_erasing, ids_of
from incr_core.registry.ledger import entries_table
from incr_core.runs import KEPT, delete_rows, memories_of, rows_in_file, rows_in_source, rows_kept
from incr_core.storage import Lock, checkpoint, numbers_in, write_atomically

__all__ = ["erase", "own_weights", "states"]


def erase(path: str, where: str | None, rows: str | None) -> dict[str, dict[str, Any]]:
    """Delete rows from the memories of an owner's client, from waiting rows, and from the records of bad rows.

    After a kill, the same command finishes the erasure.

    Args:
        path: The client's file.
        where: COLUMN=VALUE, by the names in the owner's files.
        rows: A file of addresses.

    Returns:
        For each run: `rows` asked for; `learned` of them; `remembered`, `kept`, `waiting`, `predicted`, counted as in
            `runs.erase` in the newest state; `states` that were read back.
    """
    file = ClientFile.read(path)
    if rows is not None:
        asked = rows_in_file(rows)
    else:
        asked, _ = rows_in_source(open_source(file.path, file.data.format), str(where), tolerates=True)
    with _alone(file):
        runs = {place.name: _Run(file, place) for place in _places(file)}
        for run in runs.values():
            run.check()
        return {name: run.erase(asked) for name, run in runs.items()}


def states(path: str) -> dict[str, tuple[Standing, RowStates, list[str]]]:
    """Return the state of every row of an owner, for each run, from its ledger, its newest state and its files.

    Raises:
        CheckpointError: A ledger has been changed.
    """
    file = ClientFile.read(path)
    return {place.name: _Run(file, place).states() for place in _places(file)}


def own_weights(path: str, run: str | None) -> dict[str, torch.Tensor]:
    """Return the private weights of an owner's client in a run, from its newest state.

    Args:
        path: The client's file.
        run: The run. None: the only one in which it took part.
    """
    file = ClientFile.read(path)
    places = [place for place in _places(file) if run in (None, place.name)]
    if len(places) != 1:
        wanted = "one run" if run is None else f"run {run}"
        raise JobError(
            f"{path}: expected the client to have taken part in {wanted}, got {len(places)} in {file.folder}; name a "
            "version that the run still has the state of, or the file of a client that took part"
        )
    generations = numbers_in(places[0] / "generations")
    newest = places[0] / "generations" / str(max(generations, default=0))
    found: dict[str, torch.Tensor] = checkpoint.load(newest)[0].get("personal", {})
    if not found:
        raise JobError(
            f"{path}: expected weights of the client's own (federated.personal, or strategy ditto), got a run in which "
            "all weights are common; leave --client out"
        )
    return found


def _places(file: ClientFile) -> list[Path]:
    return [job.parent for job in sorted((file.folder / "runs").glob("*/job.json"))]


@contextmanager
def _alone(file: ClientFile) -> Iterator[None]:
    """Exclude a running client within the context."""
    if not file.folder.exists():
        raise JobError(f"{file.folder}: expected the folder of a client that has taken part in a run, found none")
    lock = Lock(file.folder / ".lock")
    try:
        lock.take(0.0)
    except RunDirectoryError:
        raise EngineError(
            f"client {file.name}: expected to be alone with {file.folder}, got a client that is running; stop it "
            "(Ctrl-C, SIGTERM), and start it again afterwards: no row is lost"
        ) from None
    try:
        yield
    finally:
        lock.release()


class _Run:
    """One run, in the owner's folder of it."""

    def __init__(self, file: ClientFile, place: Path) -> None:
        self.file, self.place = file, place
        self.job: Job = agreed(file, json.loads((place / "job.json").read_text())["job"])
        self.memories = memories_of(self.job)
        self.generations = [place / "generations" / str(number) for number in numbers_in(place / "generations")]

    def check(self) -> None:
        """Read all states that are read later.

        A state that cannot be read, or that keeps rows for good, raises an error.
        """
        for folder in self.generations:
            rows_kept(checkpoint.load(folder)[0], self.memories)

    def erase(self, asked: pa.Table) -> dict[str, Any]:
        """Delete these rows and those of an interrupted erasure, and read all states back."""
        begin_erasing(self.place, asked)
        every = pa.concat_tables([erased(self.place), erasing(self.place)])
        newest = dict.fromkeys(KEPT, 0)
        for folder in self.generations:
            state, manifest = checkpoint.load(folder)
            newest = self._held(state, asked)
            if any(self._held(state, every).values()):
                delete_rows(state, self.memories, ids_of(every, _met(state)))
                checkpoint.save(folder, state, **manifest)
            checkpoint.tidy(folder)
        self._without_values(every)
        for folder in self.generations:
            if left := sum(self._held(checkpoint.load(folder)[0], every).values()):
                raise CheckpointError(f"{folder}: expected no erased row, found {left}; run the same command again")
        finish_erasing(self.place)
        ledger = OwnerLedger(self.place / "ledger.jsonl")
        found = ledger.states_of(zip(asked["fragment"].to_pylist(), asked["offset"].to_pylist(), strict=True))
        return {"rows": asked.num_rows, "learned": found.count("learned"), **newest, "states": len(self.generations)}

    def _held(self, state: Any, addresses: pa.Table) -> dict[str, int]:
        ids = ids_of(addresses, _met(state))
        return {where: int(torch.isin(rows, ids).sum()) for where, rows in rows_kept(state, self.memories).items()}

    def _without_values(self, addresses: pa.Table) -> None:
        """Remove the values of these rows from the records of rows that cannot be used."""
        path = self.place / "refused.jsonl"
        if not path.exists():
            return
        gone = set(zip(addresses["fragment"].to_pylist(), addresses["offset"].to_pylist(), strict=True))
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if (line["fragment"], line.get("offset")) in gone:
                line["got"] = None
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def states(self) -> tuple[Standing, RowStates, list[str]]:
        """Return the state of every row of the owner's files, or the violations."""
        ledger = OwnerLedger(self.place / "ledger.jsonl", mend=False)
        state = checkpoint.load(self.generations[-1])[0] if self.generations else None
        cursor, unproven = (state["cursor"] if state else None) or {}, list[str]()
        try:
            standing, has_files = self.job.data().standing(cursor), True
        except (ArgumentError, JobError, StreamError) as fault:
            unproven.append(f"that every row of the files is in the ledger, and none that is not: {fault}")
            standing, has_files = Standing(list(cursor.get("fragments", ())), 0), False
        names = list(dict.fromkeys([*standing.names, *(line["fragment"] for line in ledger.lines)]))
        rows = {kind: ledger.rows_in(kind, names) for kind in ("learned", "duplicate", "quarantined")}
        held = RowSet()
        if state is not None:
            at_hand = state["increment"]
            if at_hand is not None and not at_hand["begun"]:
                held |= RowSet.of_ids(at_hand["labelled"]["rows"].numpy())
            if at_hand is not None and "held" in at_hand:
                held |= RowSet.of_ids(at_hand["held"]["rows"].numpy())
            withheld = HeldBack(self.file.privacy.min_rows)
            withheld.load_state_dict(state["exchanged"].get("withheld"))
            for untold in (withheld.duplicates, withheld.bad):
                held |= RowSet.of_ids(untold.numpy())
        name = self.file.name
        tables = {
            "ledger": entries_table(1, {name: rows["learned"]}, names, increment=0),
            "duplicates": entries_table(1, {name: rows["duplicate"]}, names, increment=0),
            "quarantine": quarantine_table(
                [
                    BadRow(row, names[row >> OFFSET_BITS], row & ((1 << OFFSET_BITS) - 1), "", "", "", UNKNOWN)
                    for row in rows["quarantined"].tolist()
                ]
            ),
        }
        found = RowStates.of(
            tables,
            erased(self.place),
            standing,
            {name: held} if len(held) else {},
            frozen=self.job.learner.frozen,
            has_files=has_files,
        )
        if standing.unproven is not None:
            unproven.append(f"which rows are due: {standing.unproven}")
        return standing, found, unproven


def _met(state: Any) -> list[str]:
    """Return the files that a client has read, by their numbers in its row ids."""
    return list(state["cursor"]["fragments"]) if state["cursor"] else []
