"""The host of a client that owns its rows. The client's file defines all that a server can use."""

from __future__ import annotations

import json
import math
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from federated._client_failures import failure
from federated._client_file import ClientFile
from federated._client_host import KEPT, ClientHost
from federated._client_privacy import Promise, Spent
from federated._consent import Declined
from federated._owned_run import OwnedRun
from federated._owner_ledger import STATES, OwnerLedger
from federated._privacy_budget import PrivacyBudget
from federated._records import thinned
from incr_core.data import offset_of
from incr_core.errors import CheckpointError, EngineError, RunDirectoryError
from incr_core.rounds import VERDICTS, Arrival, Comparison, Orders, Participant
from incr_core.shown import shown
from incr_core.storage import Lock, storage, write_atomically
from incr_core.update import Update

__all__ = ["Owner", "describe"]

RUN = re.compile(r"[0-9a-f]{16}")
"""The name of a run. No other text of a server becomes a path."""

ACCOUNT = "privacy.jsonl"
"""File in an owner's folder with the account of its budget. All runs share it, because they use the same rows."""

LARGER = 100.0
"""Maximum factor by which a server may enlarge a memory."""

ABANDONED = 86_400.0
"""Seconds after which a run that was never committed is removed."""


def _say(what: str) -> None:
    print(f"incr client: {shown(what)}", file=sys.stderr, flush=True)


class Owner(ClientHost):
    """The owner of a client's file. Only this process serves it.

    Example:
        >>> Owner.of("/nowhere/client.toml")
        Traceback (most recent call last):
        ...
        incr_core.errors.JobError: /nowhere/client.toml: expected a client's file, got: No such file or directory
    """

    def __init__(self, file: ClientFile, say: Callable[[str], None] = _say) -> None:
        self.file, self.say = file, say
        self._runs: dict[str, OwnedRun] = {}
        self._run: OwnedRun | None = None
        with storage(file.folder):
            file.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = Lock(file.folder / ".lock")
        try:
            self._lock.take(30.0)
        except RunDirectoryError:
            raise EngineError(
                f"client {file.name}: expected to be the only one that serves it, got another process that writes "
                f"{file.folder}; stop that one"
            ) from None
        self._identity = self._secret("identity")
        private = file.privacy.epsilon is not None
        self._budget = PrivacyBudget(file.folder / ACCOUNT, file.privacy) if private else None

    _owners: ClassVar[dict[str, Owner]] = {}

    @classmethod
    def of(cls, path: str, say: Callable[[str], None] = _say) -> Owner:
        """Return the owner of the file at `path` in this process."""
        if path not in cls._owners:
            cls._owners[path] = cls(ClientFile.read(path), say)
        return cls._owners[path]

    def close(self) -> None:
        """Release the lock, so that another process can serve the owner."""
        for run in self._runs.values():
            run.let_go()
        self._lock.release()
        self._owners.pop(next((path for path, owner in self._owners.items() if owner is self), ""), None)

    @property
    def name(self) -> str:
        """The name in the client's file."""
        return self.file.name

    def hello(self) -> dict[str, Any]:
        """Return the name, and a secret that identifies the client, so that no other client can take its place."""
        return {"name": self.name, "identity": self._identity}

    def open(self, order: ConfigRecord) -> Participant:
        """Take part in a run, or continue it."""
        run, generation = str(order["run"]), int(str(order["generation"]))
        self._remove_abandoned(run)
        if generation < 0:
            place = self._place(run)
            if (known := self._runs.pop(run, None)) is not None:
                known.let_go()
            told = str(order["job"]), int(str(order["index"])), self._promise(run)
            self._runs[run] = OwnedRun.begun(self.file, place, self.say, *told)
            generation = 0
            self.say(f"takes part in run {run}")
        self._run = self._known(run)
        self._run.let_go()  # so that the files are listed again
        return self._run.at(generation)

    def participant(self, order: ConfigRecord) -> Participant:
        """Return the participant at the generation that the server names."""
        self._run = self._known(str(order["run"]))
        return self._run.at(int(str(order["generation"])))

    @property
    def promise(self) -> Promise | None:
        """The promise of the owner's file."""
        return None if self._run is None else self._run.promise

    def receive(self, participant: Participant, number: int | None) -> Arrival | None:
        """Return the next increment.

        If the budget does not pay for it, nothing is read, and its rows stay in their files.
        """
        assert self._run is not None
        if (promise := self.promise) is not None:
            promise.spent = not promise.affords(participant, self._run.generation)
            if promise.spent:
                spent = f"{promise.budget.epsilon():.3g} of {promise.budget.limit:g}"
                self.say(f"the privacy budget is spent (epsilon {spent}): nothing more is learned here")
                return None
        return participant.receive(number)

    def learn(self, participant: Participant, anchor: Mapping[str, Tensor], first: bool) -> Update:
        """Learn a round, hidden by noise under a promise."""
        assert self._run is not None
        if self.promise is None:
            return participant.learn(anchor, first)
        update = self.promise.learn(participant, anchor, first, self._run.generation)
        self.promise.spent = not self.promise.affords(participant, self._run.generation)
        return update

    def arrived(self, arrival: Arrival, participant: Participant) -> dict[str, Any]:
        """Return counts and sums. The identity of the rows stays here."""
        assert self._run is not None
        duplicates, bad = self._run.refused(arrival)
        tick = arrival.tick
        told = {
            # With increments by file, the name of an increment is that of a file.
            "tick": {"name": tick.name if self._run.is_timed else "", "warm": tick.warm, "time": tick.time},
            "duplicates": duplicates,
            "bad": bad,
            "seconds": arrival.seconds,
            **self._run.withheld.told(arrival),
        }
        told["statistics"] = thinned(told["statistics"])
        return told if self.promise is None else self.promise.hidden(told)

    def holds(self, participant: Participant) -> bool:
        """Return whether there are rows, or data to report, that are too few."""
        assert self._run is not None
        at_hand = participant.increment
        few = at_hand is not None and at_hand.waiting and not self._run.withheld.may_tell(len(at_hand.left))
        return few or bool(self._run.withheld)

    def holds_back(self, participant: Participant) -> bool:
        """Return whether rows are held back, and are enough to be offered."""
        assert self._run is not None
        at_hand = participant.increment
        back = at_hand is not None and super().holds_back(participant)
        return back and at_hand is not None and self._run.withheld.may_tell(len(at_hand.left))

    def check_learns(self, participant: Participant) -> None:
        """Check that the current rows are enough to be learned or discarded.

        Raises:
            Declined: They are too few, so the server was not informed of them.
        """
        assert self._run is not None
        rows = 0 if participant.increment is None else len(participant.increment.labelled)
        if not self._run.withheld.may_tell(rows):
            raise Declined(
                f"client {self.name}: expected an order about {self._run.withheld.least} rows or more, got one about "
                "fewer (privacy.min_rows); order nothing about rows that were not reported"
            )

    def consolidates(self, participant: Participant) -> bool:
        """Return whether the rows since the last consolidation are enough."""
        assert self._run is not None
        at_hand = participant.increment
        fresh = participant.spans or (at_hand is not None and (at_hand.begun or not at_hand.waiting))
        return fresh and self._run.withheld.may_tell(participant.unconsolidated)

    def learned(self, participant: Participant) -> None:
        """Write the learned rows into the ledger."""
        assert self._run is not None
        assert participant.increment is not None
        assert participant.increment.labelled.row_ids is not None
        self._run.account("learned", participant.increment.labelled.row_ids)

    def skipped(self, rows: Tensor) -> None:
        """Write discarded rows into the ledger as refused."""
        assert self._run is not None
        self._run.account("quarantined", rows)

    def judged(self, sums: Tensor) -> Tensor:
        """Return the sums, or zeros if they cover too few rows."""
        assert self._run is not None
        return super().judged(sums) if self._run.withheld.may_tell(int(sums[0])) else torch.zeros_like(sums)

    def compared(self, comparison: Comparison) -> Comparison:
        """Return the comparison, or an empty one if it covers too few rows."""
        assert self._run is not None
        return super().compared(comparison) if self._run.withheld.may_tell(comparison.rows) else Comparison()

    def rows(self, told: Tensor) -> Tensor:
        """Return the ids of rows by their numbers in the ledger."""
        assert self._run is not None
        return self._run.row_ids(offset_of(super().rows(told)))

    def agrees(self, orders: Orders) -> Orders:
        """Return orders whose numbers and times are valid.

        Raises:
            EngineError: An order is not valid.
        """
        rate, enlarge = orders.rate, orders.enlarge
        is_rate = rate is None or (isinstance(rate, (int, float)) and 0 <= rate < math.inf)
        if not is_rate or not isinstance(enlarge, (int, float)) or not 1 <= enlarge <= LARGER:
            raise EngineError(
                f"client {self.name}: expected a rate and a size that can be, got {rate!r} and {enlarge!r}"
            )
        if orders.verdict not in (None, *VERDICTS):
            raise EngineError(
                f"client {self.name}: expected a verdict ({', '.join(VERDICTS)}), got {shown(orders.verdict, 40)}"
            )
        if orders.share is not None:
            raise EngineError(
                f"client {self.name}: expected to learn all rows that were reported, got an order to learn a share of "
                f"{shown(orders.share, 40)}"
            )
        if orders.aside is not None and type(orders.aside) is not int:
            raise EngineError(
                f"client {self.name}: expected a time up to which rates leave out, got {shown(orders.aside, 40)}"
            )
        return orders

    def coming(self, participant: Participant) -> dict[str, Any] | None:
        """Return the end of the next increment by the client's clock."""
        tick = participant.coming
        return None if tick is None else {"time": tick.time, "warm": tick.warm}

    def save(self, order: ConfigRecord, participant: Participant) -> None:
        """Keep the current state, which is on the disk already."""
        assert self._run is not None
        self._run.mark()

    def answered(self, participant: Participant, *, changed: bool) -> dict[str, Any]:
        """Save the state, and return the data of an answer."""
        run = self._run
        assert run is not None
        if changed:
            run.answered()
        told = {"generation": run.generation, "ledger": run.ledger.sha256, "erased": run.erased}
        return told if self.promise is None else {**told, **self.promise.told()}

    def failure(self, error: Exception) -> RecordDict:
        """Print the whole error for the owner. The server receives only its type, unless its own order was refused."""
        if self._run is not None:
            self._run.let_go()
        self.say(f"{type(error).__name__}: {error}")
        if isinstance(error, (Declined, Spent)):
            return failure(self.name, error)
        return failure(self.name, EngineError(f"client {self.name}: {type(error).__name__} {KEPT}; ask the owner"))

    # -- its folder --------------------------------------------------------------------------------------------------

    def _place(self, run: str) -> Path:
        if not RUN.fullmatch(run):
            raise EngineError(f"client {self.name}: expected a run by 16 hexadecimal digits, got {run[:40]!r}")
        return self.file.folder / "runs" / run

    def _known(self, run: str) -> OwnedRun:
        place = self._place(run)
        if run not in self._runs:
            self._runs[run] = OwnedRun(self.file, place, self.say, self._promise(run))
        if not self._runs[run].is_begun:
            raise CheckpointError(
                f"client {self.name}: expected to know run {run}, got one that it never took part in, or whose state "
                "is gone; give back the folder of its state, or begin another run"
            )
        return self._runs[run]

    def _promise(self, run: str) -> Promise | None:
        if self._budget is None:
            return None
        return Promise(self.file.privacy, self._budget, self._secret("noise.secret").encode(), run)

    def _secret(self, name: str) -> str:
        path = self.file.folder / name
        if not path.exists():
            write_atomically(path, secrets.token_hex(16).encode())
            path.chmod(0o600)
        return path.read_text()

    def _remove_abandoned(self, run: str) -> None:
        """Remove runs that were never committed and have not changed for a day."""
        folder = self.file.folder / "runs"
        for place in folder.iterdir() if folder.exists() else ():
            states = place / "generations"  # every message that changes the client changes this folder
            old = time.time() - (states if states.exists() else place).stat().st_mtime > ABANDONED
            if place.name != run and old and not (place / "marks.json").exists():
                if (known := self._runs.pop(place.name, None)) is not None:
                    known.let_go()
                shutil.rmtree(place, ignore_errors=True)


def describe(file: ClientFile) -> list[dict[str, Any]]:
    """Return the runs in which an owner took part: the number of rows in each state, and the hash of the ledger."""
    found = []
    for place in sorted((file.folder / "runs").glob("*/job.json")):
        ledger = OwnerLedger(place.parent / "ledger.jsonl", mend=False)  # a client may be writing it
        job = json.loads(json.loads(place.read_text())["job"]).get("name", "")
        counts = {state: ledger.count(state) for state in STATES}
        found.append({"run": place.parent.name, "job": str(job), **counts, "sha256": ledger.sha256})
    return found
