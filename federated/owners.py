"""The owners that take part in a run: each has rows, a ledger, a clock and a pace of its own, and may be away."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from federated.client_app import ORDER, WORK
from federated.cohort import updates_of
from federated.consent import offered
from federated.failures import REMEDY
from federated.home import KEPT
from federated.members import FAILURES, Member
from federated.records import told
from federated.replies import Refused, checked
from federated.roster import Roster, failures_of
from incr_core.data import OFFSET_BITS, row_ids
from incr_core.data.encoding import BadRow
from incr_core.data.sources import seconds
from incr_core.data.timeline import Tick
from incr_core.engines import Commit
from incr_core.errors import WorkerLost
from incr_core.job import Job
from incr_core.rounds import Arrival, outsized
from incr_core.update import Weights

__all__ = ["Owners"]

PATIENCE = 180.0
"""Seconds to wait for `federated.min_clients`, before the loop is told."""

GRACE = 3.0
"""Seconds to wait, at a start, for others that have not said yet who they are."""


class Owners(Roster):
    """Clients with rows of their own, on a SuperLink.

    What is known of each is a `Member`; only counts of rows are told here. Rows are numbered in the order in which they
    are told: row n of an owner is row n of the fragment with its name. So the server's ledger says of each in which
    version it is, and the owner's which row that is.

    Where increments are ticks of a clock, those clients take part in one whose own next tick it is, so that each row is
    learned with those of its time; otherwise, each takes its own next increment. A client that fails, or does not
    answer within `federated.round_timeout`, is left out; what the server has not had of it stays with it.
    """

    alike = False

    def __init__(self, job: Job, grid: Grid | None = None) -> None:
        super().__init__()
        self._job, self._wanted = job, job.federated
        self._grid = grid
        self._lent = grid is not None
        self._timeout = seconds(job.federated.round_timeout)
        self._passes = max(job.learner.epochs, job.learner.warm_epochs or 1)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.members: list[Member] = []
        self._run, self._number = secrets.token_hex(8), 0
        self._greeted: dict[str, int] = {}  # message -> node that has not said yet who it is
        self._strangers = set[int]()  # nodes that take no part
        self._come: list[Member] = []  # who has said its name, and is not open yet
        self._described: Mapping[str, Any] = {}
        self._anchor: Mapping[str, Tensor] | None = None

    @property
    def names(self) -> list[str]:
        """The owners' names."""
        return [member.name for member in self.members]

    @property
    def there(self) -> list[int]:
        """Those that can be asked now."""
        return [member.index for member in self.members if member.there]

    # -- beginning and ending ----------------------------------------------------------------------------------------

    def start(self, commit: Commit | None) -> Mapping[str, Any]:
        """Wait for `federated.min_clients`; returns what the first of them has told of the model."""
        self._begin_anew()
        if commit is not None:
            state = commit.engine["owners"]
            self._run, self._number = str(state["run"]), int(state["number"])
            self.members = [Member.from_document(document) for document in state["members"]]
        self.fragments = self.names
        if self._grid is None:
            from federated.superlink import SuperLinkGrid

            assert self._wanted.superlink is not None
            self._grid = SuperLinkGrid(self._wanted.superlink, self._wanted.certificates)
        self._gather(GRACE)
        self.bytes = 0
        return self._described

    def save(self, version: int) -> dict[str, Any]:
        """Let those that are there keep their state; returns what is known of all."""
        self.ask("query.save", self.there, {"version": version})
        self.news = []
        members = [member.document() for member in self.members]
        return {"owners": {"run": self._run, "number": self._number, "members": members}}

    def told(self) -> dict[str, Any]:
        """Of each owner: the rows learned, and the hash of its own ledger."""
        clients = {
            member.name: {"rows_learned": member.learned, "rows": member.told, "ledger_sha256": member.ledger}
            for member in self.members
        }
        return {"clients": clients}

    def close(self) -> None:
        """Leave the SuperLink; the owners stay there."""
        if self._grid is not None and not self._lent:
            self._grid.finish()  # type: ignore[attr-defined]
            self._grid = None

    # -- who is there ------------------------------------------------------------------------------------------------

    def _gather(self, grace: float = 0.0) -> None:
        """Take in who has come, or come back; wait where they are too few. WorkerLost where they stay too few."""
        begun, said = time.monotonic(), 0.0
        while True:
            self._take_in()
            there, now = len(self.there), time.monotonic()
            if there + len(self._come) >= self._wanted.min_clients and (not self._greeted or now - begun > grace):
                self._open()
                there = len(self.there)
                if there >= self._wanted.min_clients:
                    return
            if now - begun > PATIENCE:
                raise WorkerLost(
                    f"federated.min_clients: expected {self._wanted.min_clients} clients, got {there} after "
                    f"{PATIENCE:.0f} s{self._absent()}; start them (incr client), or lower it; {REMEDY}"
                )
            if there < self._wanted.min_clients and now - said > 30.0:
                said = now
                wanted = f"{there} of {self._wanted.min_clients} clients are there"
                print(f"incr: waiting: {wanted}{self._absent()}", file=sys.stderr, flush=True)
            time.sleep(0.1)

    def _absent(self) -> str:
        away = [member.name for member in self.members if not member.there]
        return f" (not {', '.join(away)})" if away else ""

    def _take_in(self) -> None:
        """Ask nodes that are not known who they are, and take note of those that have said so."""
        grid = self._reached
        with failures_of(grid, "finding the clients"):
            online = set(grid.get_node_ids())
            for member in self.members:
                if member.node is not None and member.node not in online:
                    self._lost(member, "its node is gone")
            self._come = [member for member in self._come if member.node in online]
            known = {member.node for member in (*self.members, *self._come)}
            known |= {*self._greeted.values()} | self._strangers
            if new := sorted(online - known):
                hello = [Message(RecordDict({ORDER: ConfigRecord({})}), node, "query.hello") for node in new]
                self._greeted |= zip(grid.push_messages(hello), new, strict=True)
            self._greeted = {sent: node for sent, node in self._greeted.items() if node in online}
            said = list(grid.pull_messages(self._greeted)) if self._greeted else []
        for reply in said:
            node = self._greeted.pop(reply.metadata.reply_to_message_id, None)
            come = None if node is None else self._member(node, reply)
            if come is not None:
                self._come = [*(other for other in self._come if other is not come), come]

    def _member(self, node: int, reply: Message) -> Member | None:
        """Who a node says that it is; None where it takes no part."""
        who: Mapping[str, Any] = reply.content.config_records.get(ORDER, {}) if reply.has_content() else {}
        name, identity = str(who.get("name", ""))[:100], str(who.get("identity", ""))
        if not name or not identity:
            self._refuse(
                node, f"node {node}", "no client's file: give its node one (node-config client='/path/x.toml')"
            )
            return None
        member = next((member for member in (*self.members, *self._come) if member.name == name), None)
        if member is None:
            member = Member(name, -1, identity)
        elif member.identity != identity:
            self._refuse(node, f"node {node}", f"the name {name} of another client: call yours otherwise")
            return None
        member.node = node
        return member

    def _open(self) -> None:
        """Let those take part that have come: who is known as it was, others anew, behind them, by their names."""
        come, self._come = self._come, []
        for member in sorted(come, key=lambda member: (member.index < 0, member.index, member.name)):
            if member.opened:
                self.news.append(("client returned", f"client {member.name}", "it goes on where it was"))
                continue
            new = member.index < 0
            if new:
                member.index = len(self.members)
                self.members.append(member)
            member.opened = True
            order = {
                "job": offered(self._job),
                "index": member.index,
                "describe": not self._described,
            }
            answer = self.ask("query.open", [member.index], order).get(member.index)
            if answer is None and new:
                self._strangers.add(self.members.pop().node or 0)  # it does not fit, and has said why
            elif answer is None:
                member.opened = False
            else:
                self._opened(member, answer)
        self.fragments = self.names

    def _opened(self, member: Member, answer: RecordDict) -> None:
        document = told(answer)
        self._described = self._described or document
        member.generation = int(str(answer.config_records[WORK]["generation"]))
        self._coming(member, document)
        self.news.append(("client joined", f"client {member.name}", f"takes part, as number {member.index}"))

    def _coming(self, member: Member, document: Mapping[str, Any]) -> None:
        coming = document["coming"]
        member.coming = None if coming is None else int(coming["time"]) if self._timed else 0

    @property
    def _timed(self) -> bool:
        """Whether an increment is a tick of a clock."""
        every = self._job.stream.every
        return isinstance(every, str) and every != "file"

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
                self.members[client].held &= document["arrival"] is not None
            documents = {client: found for client, found in documents.items() if found["arrival"] is not None}
            if documents:
                return self._arrivals({client: document["arrival"] for client, document in documents.items()})

    def _due(self) -> list[int]:
        """Whose turn it is."""
        there = [member for member in self.members if member.there]
        window = min((member.coming for member in there if member.coming is not None), default=None)
        return [
            member.index for member in there if (member.coming == window if member.coming is not None else member.held)
        ]

    def _arrivals(self, told_of: Mapping[int, Mapping[str, Any]]) -> list[Arrival]:
        leader = told_of[min(told_of)]["tick"]
        name = leader["name"] if self._timed else f"increment {self._number}"
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
        bad = self._numbered(member, document["bad"])
        member.told += len(duplicates) + len(bad)
        member.offered = document["labelled"]
        return Arrival(
            tick,
            self._numbered(member, member.offered),
            duplicates=duplicates,
            bad=[
                BadRow(row, member.name, row & MASK, KEPT, "a row that can be used", "none", KEPT)
                for row in bad.tolist()
            ],
            **{key: document[key] for key in ("arriving", "predicted", "scored", "seconds")},
            **{key: document[key] for key in ("statistics", "observed", "probed", "tasks")},
        )

    def _numbered(self, member: Member, count: int) -> Tensor:
        return row_ids(member.index, member.told, member.told + count)

    def settle(self, arrivals: Sequence[Arrival]) -> None:
        """Rows that are in the model, or let go, have their numbers for good; the others are held by their owner."""
        for member, arrival in zip(self.members, arrivals, strict=True):
            if arrival.labelled:
                member.told += arrival.labelled
                member.learned += arrival.labelled
                member.failures = 0
            if member.offered:
                member.held = not arrival.labelled

    def _tell_pending(self) -> None:
        """Say who may have rows that nobody has learned, now that the others have none left."""
        for member in self.members:
            if not member.there and (member.coming is not None or member.held or not member.opened):
                self.news.append(("rows pending", f"client {member.name} is away", "learned when it comes back"))

    # -- a question --------------------------------------------------------------------------------------------------

    def ask(
        self,
        action: str,
        clients: Sequence[int],
        order: Mapping[str, Any] | None = None,
        *,
        orders: Sequence[Mapping[str, Any]] | None = None,
        records: Sequence[Mapping[str, ArrayRecord]] | None = None,
        anchor: Weights | None = None,
        shared: Mapping[str, Tensor] | None = None,
    ) -> dict[int, RecordDict]:
        """As `Roster.ask`, those that are there; the answers of those that have answered as they should."""
        places = [place for place, client in enumerate(clients) if self.members[client].there]
        self._anchor = anchor
        return super().ask(
            action,
            [clients[place] for place in places],
            order,
            orders=None if orders is None else [orders[place] for place in places],
            records=None if records is None else [records[place] for place in places],
            anchor=anchor,
            shared=shared,
        )

    @property
    def _reached(self) -> Grid:
        assert self._grid is not None, "start before asking"
        return self._grid

    def _node(self, client: int) -> int:
        node = self.members[client].node
        assert node is not None
        return node

    def _order(self, client: int, order: Mapping[str, Any]) -> ConfigRecord:
        return ConfigRecord({**order, "run": self._run, "generation": self.members[client].generation})

    def _exchange(self, messages: list[Message]) -> list[Message]:
        return list(self._reached.send_and_receive(messages, timeout=self._timeout))

    def _accepted(self, action: str, clients: Sequence[int], answers: list[Message | None]) -> dict[int, RecordDict]:
        """The answers that are as they should be; whoever has given another is left out, and its rows stay with it."""
        found: dict[int, RecordDict] = {}
        for client, answer in zip(clients, answers, strict=True):
            member = self.members[client]
            most = self._passes * member.offered if action == "train.learn" else MOST
            try:
                found[client] = checked(action, answer, self._anchor, most, member.generation)
            except Refused as why:
                self._failed(member, action, why)
        if action == "train.learn" and self._wanted.checks and self._anchor is not None:
            learners = [*found]
            for place, why_not in outsized(updates_of(found), self._anchor, self._described["rules"]).items():
                del found[learners[place]]
                self._failed(self.members[learners[place]], action, Refused(why_not))
        for client, content in found.items():
            work = content.config_records[WORK]
            if action != "query.open":
                self.members[client].generation = int(str(work["generation"]))
            self.members[client].ledger = str(work["ledger"])
        return found

    def _failed(self, member: Member, action: str, why: Refused) -> None:
        if not self._wanted.accept_failures:
            raise WorkerLost(f"client {member.name}: {why}; {REMEDY}")
        if why.silent:
            self._lost(member, str(why))
            return
        member.failures += 1
        done = "its answer was left out"
        if action == "query.open":
            done = "it takes no part"
        elif member.failures >= FAILURES:
            done = f"left out until the run is started again: {FAILURES} failures in a row"
        self.news.append(("client refused", f"client {member.name}: {why}", done))
        print(f"incr: client {member.name}: {why}; {done}", file=sys.stderr, flush=True)

    def _lost(self, member: Member, why: str) -> None:
        """It is away, until its node, or another one, says its name again."""
        if member.node is not None:
            self.news.append(("client lost", f"client {member.name}: {why}", "its rows wait until it comes back"))
        member.node = None

    def _refuse(self, node: int, who: str, why: str) -> None:
        self._strangers.add(node)
        self.news.append(("client refused", f"{who}: expected a client of this run, got {why}", "it takes no part"))
        print(f"incr: {who}: expected a client of this run, got {why}", file=sys.stderr, flush=True)


MASK = (1 << OFFSET_BITS) - 1
MOST = 1 << 31
