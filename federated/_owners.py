"""The owners that take part in a run: each has rows, a ledger, a clock and a pace of its own, and may be away."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.serverapp import Grid
from torch import Tensor

from federated._arrival_checks import COUNTS
from federated._attendance import GRACE, Attendance
from federated._client_host import KEPT
from federated._owner_records import Member
from federated._records import filled, told
from incr_core.data import offset_of, row_ids
from incr_core.data.encoding import BadRow
from incr_core.data.timeline import Tick
from incr_core.engines import Commit
from incr_core.job import Job
from incr_core.rounds import Arrival
from incr_core.shown import shown
from incr_core.update import Weights

__all__ = ["Owners"]

MOST_EMPTY = 1000
"""Increments in a row of which a client may tell nothing. Where its `privacy.min_rows` holds rows back, it tells of
them once they are enough."""


class Owners(Attendance):
    """Clients with rows of their own, on a SuperLink.

    What is known of each is a `Member`; only counts of rows are told here. Rows are numbered in the order in which they
    are told: row n of an owner is row n of the fragment with its name. So the server's ledger says of each in which
    version it is, and the owner's which row that is.

    Where increments are ticks of a clock, those clients take part in one whose own next tick it is, so that each row is
    learned with those of its time; otherwise, each takes its own next increment. A client that fails, or does not
    answer within `federated.round_timeout`, is left out; what the server has not had of it stays with it.
    """

    def __init__(self, job: Job, grid: Grid | None = None) -> None:
        super().__init__(job, grid)
        self._lent = grid is not None
        self._number = 0

    # -- beginning and ending ----------------------------------------------------------------------------------------

    def start(self, commit: Commit | None) -> Mapping[str, Any]:
        """Wait for `federated.min_clients`; returns what the first of them has told of the model."""
        self._begin_holding(commit)
        if commit is None:
            self._number = 0
            self._begin_anew(secrets.token_hex(8), [])
        else:
            state = commit.engine["owners"]
            self._number = int(state["number"])
            self._begin_anew(str(state["run"]), [Member.from_document(one) for one in state["members"]])
        if self._grid is None:
            from federated._superlink import SuperLinkGrid

            assert self._wanted.superlink is not None
            self._grid = SuperLinkGrid(self._wanted.superlink, self._wanted.certificates)
        self._gather(GRACE)
        self._count_on(commit)
        return self._described

    def save(self, version: int) -> dict[str, Any]:
        """Let those that are there keep their state; returns what is known of all."""
        self.news = []  # what was known before is in this commit; what is found now, in the next
        self.ask("query.save", self.there, {"version": version})
        members = [member.document() for member in self.members]
        return {"owners": {"run": self._run, "number": self._number, "members": members}, **self._held()}

    def told(self) -> dict[str, Any]:
        """Of each owner: the rows learned, the hash of its own ledger, and whether it has rows left in the end."""
        clients = {
            member.name: {
                "rows_learned": member.learned,
                "rows": member.told,
                "ledger_sha256": member.ledger,
                "rows_erased": member.erased,
                "rows_pending": self._waits_for(member) or member.holds or member.held or member.back or member.spent,
                **({"epsilon": member.epsilon, "epsilon_limit": member.limit} if member.limit else {}),
            }
            for member in self.members
        }
        return {"clients": clients}

    def close(self) -> None:
        """Leave the SuperLink; the owners stay there."""
        if self._grid is not None and not self._lent:
            self._grid.finish()  # type: ignore[attr-defined]
            self._grid = None

    # -- an increment ------------------------------------------------------------------------------------------------

    def receive(self, anchor: Weights, shared: Mapping[str, Tensor] | None) -> list[Arrival]:
        """Let those take an increment whose turn it is; none where nobody has any left."""
        while True:
            self._gather()
            due = self._due()
            if not due:
                self._tell_pending()
                return []
            answers = self.ask("evaluate.receive", due, {"number": self._number}, anchor=anchor, shared=shared)
            documents = {client: told(answer) for client, answer in answers.items()}
            for client, document in documents.items():
                self._coming(self.members[client], document)
                self.members[client].holds, self.members[client].back = document["holds"], document["back"]
                if document["arrival"] is None:
                    self.members[client].coming, self.members[client].held = None, False
                    self.members[client].back = False
                else:
                    self._count_empty(self.members[client], document["arrival"])
            documents = {client: found for client, found in documents.items() if found["arrival"] is not None}
            if documents:
                return self._arrivals({client: document["arrival"] for client, document in documents.items()})

    def _count_empty(self, member: Member, arrival: Mapping[str, Any]) -> None:
        """Wait no more for one that has come with nothing for so long: it would keep a run going for ever."""
        member.empty = 0 if any(arrival[key] for key in COUNTS) else member.empty + 1
        if member.empty >= MOST_EMPTY:
            member.coming = None
            what = f"{MOST_EMPTY:,} increments in a row of which it told nothing"
            self._tell("client refused", f"client {member.name}: {what}", "it is not waited for until it comes again")

    def _due(self) -> list[int]:
        """Whose turn it is."""
        there = [member for member in self.members if member.there]
        window = min((member.coming for member in there if member.coming is not None), default=None)
        return [
            member.index
            for member in there
            if (member.coming == window if member.coming is not None else self._has_left(member))
        ]

    def _has_left(self, member: Member) -> bool:
        """Whether it has rows to learn, though no increment of its own is left."""
        return (member.held or member.back) and member.index not in self.held_out

    def _arrivals(self, told_of: Mapping[int, Mapping[str, Any]]) -> list[Arrival]:
        leader = told_of[min(told_of)]["tick"]
        name = leader["name"] if self._job.stream.timed else f"increment {self._number}"
        warm = any(document["tick"]["warm"] for document in told_of.values())
        tick = Tick(self._number, str(name)[:100], warm, max(int(one["tick"]["time"]) for one in told_of.values()))
        self._number += 1
        for member in self.members:
            member.offered = 0
        return [
            self._arrival(member, tick, told_of[member.index]) if member.index in told_of else Arrival(tick)
            for member in self.members
        ]

    def _arrival(self, member: Member, tick: Tick, document: Mapping[str, Any]) -> Arrival:
        """What one has told, with the next numbers for its rows; those to learn come last, and may come again."""
        duplicates = self._numbered(member, document["duplicates"])
        member.told += len(duplicates)
        bad = self._numbered(member, document["bad"])
        member.told += len(bad)
        member.offered = document["labelled"]
        member.held &= member.offered > 0
        return Arrival(
            tick,
            self._numbered(member, member.offered),
            duplicates=duplicates,
            bad=[
                BadRow(row, member.name, number, KEPT, "a row that can be used", "none", KEPT)
                for row, number in zip(bad.tolist(), offset_of(bad).tolist(), strict=True)
            ],
            **{key: document[key] for key in ("arriving", "predicted", "scored", "seconds")},
            **{key: document[key] for key in ("observed", "probed", "tasks")},
            statistics=filled(document["statistics"]),
            sliced={name: (rows, sums) for name, (rows, sums) in document["sliced"].items()},
        )

    def _numbered(self, member: Member, count: int) -> Tensor:
        return row_ids(member.index, member.told, member.told + count)

    def settle(self, arrivals: Sequence[Arrival], *, learned: bool = True) -> None:
        """Rows that are in the model, or let go, have their numbers for good; the others are held by their owner."""
        for member, arrival in zip(self.members, arrivals, strict=True):
            if arrival.labelled:
                member.told += arrival.labelled
                member.learned += arrival.labelled if learned else 0
                member.failures = 0
            if member.offered:
                member.held = not arrival.labelled

    def _tell_pending(self) -> None:
        """Say who may have rows that nobody has learned, now that the others have none left."""
        for member in filter(self._waits_for, self.members):
            print(f"incr: client {shown(member.name)} is away; its rows wait until it is back", file=sys.stderr)

    @staticmethod
    def _waits_for(member: Member) -> bool:
        return not member.there and (member.coming is not None or member.held or not member.opened)
