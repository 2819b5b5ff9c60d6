"""A run at an owner: the client that learns its rows, and its files on the owner's disk.

    job.json        the job from the server, and the client's number
    generations/    the client's state after each of the last messages that changed it
    marks.json      the generations of the server's last commits
    ledger.jsonl    the rows that the run has had (`OwnerLedger`), and ledger.secret, with which its hashes begin
    refused.jsonl   rows that cannot be used, with reasons, for the owner only

A state is on the disk before the server receives the answer. So the server may be one message behind, never ahead. Each
message names the generation that the server expects of the client. A client that was killed, or whose answer was lost,
continues from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from federated._client_file import ClientFile
from federated._client_privacy import Promise
from federated._consent import Declined, agreed
from federated._held_back import HeldBack
from federated._owner_ledger import OwnerLedger
from incr_core.errors import ArgumentError, CheckpointError, StorageError
from incr_core.numerics import settle_arithmetic
from incr_core.registry import erased, erasing, ids_of
from incr_core.rounds import Arrival, Participant
from incr_core.storage import numbers_in, remove, storage, write_atomically

__all__ = ["OwnedRun"]

MARKS = 2
"""Commits whose states are kept: the server's last, and the one that it may fail to make."""


class OwnedRun:
    """The run in `folder`, by the client's file.

    Args:
        file: The client's file.
        folder: Folder of the run.
        say: Called with messages for the owner.
        promise: Hides results computed from the rows; None: nothing is hidden.

    Attributes:
        is_timed: Whether increments are ticks of a clock.
    """

    def __init__(
        self, file: ClientFile, folder: Path, say: Callable[[str], None], promise: Promise | None = None
    ) -> None:
        self.file, self.folder, self._say, self.promise = file, folder, say, promise
        self.ledger = OwnerLedger(folder / "ledger.jsonl")
        self.generation = -1
        self.is_timed = False
        self.withheld = HeldBack(file.privacy.min_rows)  # without slices until the job is known
        self._participant: Participant | None = None
        self._used = 0  # bytes stored besides the states since the last commit

    @classmethod
    def begun(
        cls,
        file: ClientFile,
        folder: Path,
        say: Callable[[str], None],
        told: str,
        index: int,
        promise: Promise | None = None,
    ) -> OwnedRun:
        """Start a run with the job that the server has sent.

        Raises:
            Declined: The owner does not agree, or the run has been committed.
        """
        agreed(file, told)
        if len(cls(file, folder, say)._marks()) == MARKS:
            raise Declined(
                f"client {file.name}: expected to go on with run {folder.name}, got the order to begin it again; its "
                "server has committed it, so begin another run"
            )
        remove(folder)
        with storage(folder):
            folder.mkdir(parents=True)
        write_atomically(folder / "job.json", json.dumps({"job": told, "index": index}).encode())
        run = cls(file, folder, say, promise)
        run._participant, run.generation = run._made(), 0
        run._save()
        return run

    @property
    def erased(self) -> int:
        """Number of rows erased from the run, rounded down so that each reported difference covers enough rows."""
        count: int = erased(self.folder).num_rows
        return count - count % max(1, self.withheld.least)

    @property
    def is_begun(self) -> bool:
        """Whether the run has started here."""
        return (self.folder / "job.json").exists()

    # -- the client, message by message ------------------------------------------------------------------------------

    def at(self, generation: int) -> Participant:
        """Return the client after the message `generation`. Later changes are undone.

        Raises:
            CheckpointError: The state is no longer stored.
        """
        if self._participant is None or self.generation != generation:
            if erasing(self.folder).num_rows:
                raise CheckpointError(
                    f"client {self.file.name}: an erasure in {self.folder} has begun and is not finished; run the same "
                    "incr forget again first"
                )
            place = self._place(generation)
            if not place.exists():
                kept = numbers_in(self.folder / "generations")
                raise CheckpointError(
                    f"client {self.file.name}: expected its state after message {generation}, kept are those after "
                    f"{kept}; restore {self.folder} from a copy, or begin another run"
                )
            if self._participant is None:
                self._participant = self._made()
            beside, _ = self._participant.load(place)
            self.withheld.load_state_dict(beside.get("withheld"))
            self.ledger.go_back(generation)
            for later in numbers_in(self.folder / "generations"):
                if later > generation:
                    remove(self._place(later))
            marks = self._marks()
            if any(mark > generation for mark in marks):  # of commits that the server never made
                write_atomically(self._marked, json.dumps([mark for mark in marks if mark <= generation]).encode())
            self.generation = generation
        return self._participant

    def answered(self) -> None:
        """Record that a message has changed the client. Its state is on the disk before the answer is sent."""
        self.generation += 1
        self._save()
        kept = {*self._marks(), self.generation, self.generation - 1}
        for old in numbers_in(self.folder / "generations"):
            if old not in kept:
                remove(self._place(old))

    def let_go(self) -> None:
        """Discard the client in memory, in any stage. The next message begins with the state on the disk."""
        if self._participant is not None:
            self._participant.close()
        self._participant, self._used = None, 0
        self.ledger = OwnerLedger(self.ledger.path)

    def mark(self) -> None:
        """Keep this generation until two commits later, because the server is about to commit."""
        marks = [*(mark for mark in self._marks() if mark < self.generation), self.generation][-MARKS:]
        write_atomically(self._marked, json.dumps(marks).encode())
        self._used = 0

    # -- its rows ----------------------------------------------------------------------------------------------------

    def account(self, state: str, rows: Tensor) -> None:
        """Write rows (n,) into the ledger by their ids, with the state that the current message gives them."""
        assert self._participant is not None
        assert self._participant.increment is not None
        tick = self._participant.increment.tick
        self.ledger.add(
            state,
            rows,
            self._participant.stream.fragments,
            increment=tick.number,
            generation=self.generation + 1,
        )
        if state == "learned" and len(rows):
            self._say(f"increment {tick.number} ({tick.name}): {len(rows):,} rows learned")

    def refused(self, arrival: Arrival) -> tuple[int, int]:
        """Record rows and files that cannot be used: in full here, as numbers in the ledger once they may be reported.

        Returns:
            The numbers of duplicates and bad rows that may be reported now.
        """
        duplicates, bad = self.withheld.unusable(arrival)
        self.account("duplicate", duplicates)
        self.account("quarantined", bad)
        told = [
            {"fragment": bad.fragment, "offset": bad.offset, "column": bad.column, "why": bad.reason, "got": bad.value}
            for bad in arrival.bad
        ]
        told += [{"fragment": bad.fragment, "why": bad.reason} for bad in arrival.bad_files]
        if told:
            path = self.folder / "refused.jsonl"
            with storage(path), open(path, "a") as file:
                file.writelines(json.dumps(one) + "\n" for one in told)
            self._say(f"{len(told):,} rows or files cannot be used: {path}")
        return len(duplicates), len(bad)

    def row_ids(self, numbers: Tensor) -> Tensor:
        """Return the ids of learned rows by the numbers (n,) that the server has for them; none if they are too few."""
        assert self._participant is not None
        fragments = self._participant.stream.fragments
        found = self.ledger.ids(numbers, fragments)
        found = found[~torch.isin(found, ids_of(erased(self.folder), fragments))]
        return found if self.withheld.may_tell(len({*found.tolist()})) else found[:0]

    # -- its disk ----------------------------------------------------------------------------------------------------

    def _made(self) -> Participant:
        told = json.loads((self.folder / "job.json").read_text())
        job = agreed(self.file, told["job"])
        self.is_timed = job.stream.timed
        self.withheld.slices = job.slices()
        settle_arithmetic(job.learner.threads, job.learner.device)
        made = job.participant(self.file.name, int(told["index"]), personal=job.federated.personal)
        if self.promise is not None:
            try:
                self.promise.check(made)
            except ArgumentError as error:
                raise Declined(f"client {self.file.name}: {error}") from error
        return made

    def _save(self) -> None:
        assert self._participant is not None
        place = self._place(self.generation)
        self._participant.save(place, {"withheld": self.withheld.state_dict()}, whole=True, generation=self.generation)
        if not self._used:  # counted again at each commit: nothing else grows by much in between
            self._used = _bytes(self.folder.parent) - _bytes(place)
        used = self._used + _bytes(place)
        if used > self.file.disk:
            remove(place)
            raise StorageError(
                f"client {self.file.name}: expected its state within allow.disk = {self.file.allow.disk:g} GB, got "
                f"{used:,} bytes in {self.folder.parent}; allow more, or remove runs that are over"
            )

    def _place(self, generation: int) -> Path:
        return self.folder / "generations" / str(generation)

    def _marks(self) -> list[int]:
        return [int(mark) for mark in json.loads(self._marked.read_text())] if self._marked.exists() else []

    @property
    def _marked(self) -> Path:
        return self.folder / "marks.json"


def _bytes(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(
        _bytes(Path(entry.path)) if entry.is_dir(follow_symlinks=False) else entry.stat(follow_symlinks=False).st_size
        for entry in os.scandir(folder)
    )
