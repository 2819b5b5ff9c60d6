"""The owners in a run: each has its own rows, ledger, clock and pace, and may be away."""

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
"""Maximum number of increments in a row in which a client may report nothing.

If `privacy.min_rows` holds its rows back, it reports them once they are enough.
"""


class Owners(Attendance):
    """Clients on a SuperLink that own their rows.

    The server knows each as a `Member`, and counts of its rows. Rows are numbered in the order in which they are
    reported: row n of an owner is row n of the fragment with its name. So the server's ledger contains the version of
    each number, and the owner's ledger the row of each number.

    If increments are ticks of a clock, the clients whose next tick comes first take part, so that rows are learned with
    others of the same time. Otherwise each client takes its next increment. A client that fails, or does not answer
    within `federated.round_timeout`, is left out, and keeps the rows that the server has not received.
    """

    def __init__(self, job: Job, grid: Grid | None = None) -> None:
        super().__init__(job, grid)
        self._lent = grid is not None
        self._number = 0

    # -- beginning and ending ----------------------------------------------------------------------------------------

    def start(self, commit: Commit | None) -> Mapping[str, Any]:
        """Wait for `federated.min_clients`. Return the description of the model by one of them."""
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
        """Have the present clients save their state. Return the records of all."""
        self.news = []  # earlier news is in this commit, later news in the next
        self.ask("query.save", self.there, {"version": version})
        members = [member.document() for member in self.members]
        return {"owners": {"run": self._run, "number": self._number, "members": members}, **self._held()}

    def told(self) -> dict[str, Any]:
        """Return the rows learned of each owner, the hash of its ledger, and whether it has rows left at the end."""
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
        """Leave the SuperLink. The owners stay there."""
        if self._grid is not None and not self._lent:
            self._grid.finish()  # type: ignore[attr-defined]
            self._grid = None

    # -- an increment ------------------------------------------------------------------------------------------------

    def receive(self, anchor: Weights, shared: Mapping[str, Tensor] | None) -> list[Arrival]:
        """Have the clients take an increment whose turn it is; returns none when no client has any left."""
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
        """Stop waiting for a client that has reported nothing in too many increments.

        It would keep a run going for ever.
        """
        member.empty = 0 if any(arrival[key] for key in COUNTS) else member.empty + 1
        if member.empty >= MOST_EMPTY:
            member.coming = None
            what = f"{MOST_EMPTY:,} increments in a row in which it reported nothing"
            self._tell("client refused", f"client {member.name}: {what}", "it is not waited for until it comes again")

    def _due(self) -> list[int]:
        """Return the clients whose turn it is."""
        there = [member for member in self.members if member.there]
        window = min((member.coming for member in there if member.coming is not None), default=None)
        return [
            member.index
            for member in there
            if (member.coming == window if member.coming is not None else self._has_left(member))
        ]

    def _has_left(self, member: Member) -> bool:
        """Return whether it has rows to learn, but no further increment."""
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
        """Return a client's report as an arrival with the next numbers for its rows.

        Rows to learn come last, since they may be offered again.
        """
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
        """Make the numbers of learned or discarded rows final. The owners keep the other rows."""
        for member, arrival in zip(self.members, arrivals, strict=True):
            if arrival.labelled:
                member.told += arrival.labelled
                member.learned += arrival.labelled if learned else 0
                member.failures = 0
            if member.offered:
                member.held = not arrival.labelled

    def _tell_pending(self) -> None:
        """Report the clients that may have unlearned rows when the others have none left."""
        for member in filter(self._waits_for, self.members):
            print(f"incr: client {shown(member.name)} is away; its rows wait until it is back", file=sys.stderr)

    @staticmethod
    def _waits_for(member: Member) -> bool:
        return not member.there and (member.coming is not None or member.held or not member.opened)
