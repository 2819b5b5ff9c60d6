"""Who of the owners is there, and how each is asked: they come, leave, come back, and need not be believed."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from federated._arrival_checks import unusual
from federated._asked import Asked, Known, Refused, sums_of
from federated._client_failures import REMEDY
from federated._cohort import updates_of
from federated._consent import offered
from federated._message_records import ORDER, WORK
from federated._owner_records import FAILURES, Member
from federated._records import told
from federated._replies import checked, named
from federated._roster import Roster, budget_spent, failures_of
from incr_core.data.sources import seconds
from incr_core.engines import waiting
from incr_core.errors import WorkerLost
from incr_core.job import Job
from incr_core.rounds import TrivialPredictors, outsized
from incr_core.shown import shown
from incr_core.update import Weights

__all__ = ["Attendance"]

PATIENCE = 180.0
"""Seconds to wait for `federated.min_clients`, before the loop is told."""

GRACE = 3.0
"""Seconds to wait, at a start, for others that have not said yet who they are."""


class Attendance(Roster):
    """The members of a run, by their names, on whatever nodes they are; `Owners` says whose turn it is.

    A node that is new is asked who it is, without waiting for it. Who has said its name takes part from the next
    increment on: those known as they were, others anew. A member that does not answer is away until a node says its
    name again; one that answers what cannot be is left out of that question.
    """

    alike = False

    def __init__(self, job: Job, grid: Grid | None = None) -> None:
        super().__init__()
        self._job, self._wanted = job, job.federated
        self._grid = grid
        self._timeout = seconds(job.federated.round_timeout)
        self._passes = max(job.learner.most_epochs, job.learner.warm_epochs or 1)
        probes = [max(1, len(probe.columns)) for probe in job.probes()]
        step = job.learner.batch_size * job.learner.accumulate
        once = job.learner.validation is not None
        slices = job.slices()
        names = frozenset(() if slices is None else slices.names)
        objective = job.objective()
        trivial = TrivialPredictors(objective).shape
        self._known = Known(sums_of(objective), probes, job.stream.timed, step, self._passes, once, names, trivial)
        self._begin_anew("", [])

    def _begin_anew(self, run: str, members: Sequence[Member]) -> None:
        """Go on with these members of this run, none of whom is there yet."""
        self._run, self.members, self.failed = run, list(members), []
        self._goes_on = bool(members)  # from a commit, which has the weights
        self.origins = self.names
        self._greeted: dict[str, int] = {}  # message -> node that has not said yet who it is
        self._strangers = set[int]()  # nodes that take no part
        self._come: list[Member] = []  # who has said its name, and is not open yet
        self._described: Mapping[str, Any] = {}
        self._note_held_out()

    def _note_held_out(self) -> None:
        """By their names, whether they are there or not."""
        self.held_out = {member.index for member in self.members if member.name in self._wanted.held_out}

    @property
    def names(self) -> list[str]:
        """The owners' names."""
        return [member.name for member in self.members]

    @property
    def there(self) -> list[int]:
        """Those that can be asked now."""
        return [member.index for member in self.members if member.there]

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
            with waiting():  # Ctrl-C and `incr stop` need not wait for clients
                time.sleep(0.1)

    def _absent(self) -> str:
        away = [shown(member.name) for member in self.members if not member.there]
        return f" (not {', '.join(away)})" if away else ""

    def _take_in(self) -> None:
        """Ask nodes that are not known who they are, and take note of those that have said so."""
        grid = self._reached
        with failures_of(grid, "finding the clients"):
            online = set(grid.get_node_ids())
            for member in self.members:
                if member.node is not None and member.node not in online:
                    self.failed.append((member.index, "its node is gone"))
                    self._lost(member, "its node is gone")
            self._come = [member for member in self._come if member.node in online]
            self._strangers &= online  # a node that comes back is asked again
            known = {member.node for member in (*self.members, *self._come)}
            known |= {*self._greeted.values()} | self._strangers
            if new := sorted(online - known):
                hello = [Message(RecordDict({ORDER: ConfigRecord({})}), node, "query.hello") for node in new]
                # One whose greeting could not be sent is greeted again.
                self._greeted |= {sent: node for sent, node in zip(grid.push_messages(hello), new, strict=True) if sent}
            self._greeted = {sent: node for sent, node in self._greeted.items() if node in online}
            said = list(grid.pull_messages(self._greeted)) if self._greeted else []
        for reply in said:
            node = self._greeted.pop(reply.metadata.reply_to_message_id, None)
            come = None if node is None else self._member(node, reply)
            if come is not None:
                self._come = [*(other for other in self._come if other is not come), come]

    def _member(self, node: int, reply: Message) -> Member | None:
        """Who a node says that it is; None where it takes no part."""
        try:
            name, identity = named(reply.content.config_records.get(ORDER, {}) if reply.has_content() else {})
        except Refused as why:
            self._refuse(node, f"node {node}", str(why))
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
                self._keeps(member)
                continue
            new = member.index < 0
            if new:
                member.index = len(self.members)
                self.members.append(member)
                self._note_held_out()
            member.opened = True
            answer = self.ask("query.open", [member.index], self._opening(member)).get(member.index)
            if answer is None and new:
                self._strangers.add(self.members.pop().node or 0)  # it does not fit, and has said why
            elif answer is None:
                member.opened = False
            else:
                self._opened(member, answer)
                if not new:
                    self._keeps(member)
        self.origins = self.names
        self._describe()

    def _opening(self, member: Member, *, describe: bool = False) -> dict[str, Any]:
        return {"job": offered(self._job), "index": member.index, "describe": describe}

    def _describe(self) -> None:
        """Let one of them tell of the model, with the weights that a run begins with: any, so that no client can bring
        it about that it is the one. All that do as they should tell the same, from the job's seed. One that has learned
        tells no weights, and where a run goes on they are not looked at.
        """
        while not self._described and (asked := self.there):
            member = self.members[secrets.choice(asked)]
            order = self._opening(member, describe=True)
            answer = self.ask("query.open", [member.index], order).get(member.index)
            if answer is not None and (self._goes_on or told(answer)["weights"]):
                self._described = told(answer)
                return
            if answer is not None:
                self._failed(member, "query.open", Refused("a model without weights"))
            member.opened = False

    def _opened(self, member: Member, answer: RecordDict) -> None:
        document = told(answer)
        member.generation = int(str(answer.config_records[WORK]["generation"]))
        self._coming(member, document)
        self.news.append(("client joined", f"client {member.name}", f"takes part, as number {member.index}"))

    def _keeps(self, member: Member) -> None:
        """Let it keep the state at which the last commit has it: it may have been away when that was made."""
        self.ask("query.save", [member.index], {})

    def _coming(self, member: Member, document: Mapping[str, Any]) -> None:
        coming = document["coming"]
        member.coming = None if coming is None else int(coming["time"]) if self._job.stream.timed else 0

    # -- a question --------------------------------------------------------------------------------------------------

    def _may_ask(self, client: int) -> bool:
        return self.members[client].there

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

    def _accepted(
        self, action: str, clients: Sequence[int], answers: list[Message | None], anchor: Weights | None
    ) -> dict[int, RecordDict]:
        """The answers that are as they should be; whoever has given another is left out, and its rows stay with it."""
        found: dict[int, RecordDict] = {}
        shared = self._described.get("shared", {})
        for client, answer in zip(clients, answers, strict=True):
            member = self.members[client]
            most = self._passes * (member.offered if action == "train.learn" else member.learned)
            try:
                found[client] = checked(
                    Asked(action, anchor or {}, shared, most, member.generation, self._known, self.wire, self.rules),
                    answer,
                )
            except Refused as why:
                self._failed(member, action, why)
        for client, why_not in self._too_large(action, found, anchor or {}).items() if self._compares else ():
            del found[client]
            self._failed(self.members[client], action, Refused(why_not))
        for client, content in found.items():
            work = content.config_records[WORK]
            if action != "query.open":
                self.members[client].generation = int(str(work["generation"]))
            self.members[client].ledger = str(work["ledger"])
            self._erased(self.members[client], int(str(work.get("erased", 0))))
            if "spent" in work:
                self._paid(self.members[client], work, decides=action in ("evaluate.receive", "train.learn"))
        return found

    def _paid(self, member: Member, work: ConfigRecord, *, decides: bool) -> None:
        """Its owner has spent some of a privacy budget. decides: whether it has looked at what comes next."""
        member.epsilon, member.limit = float(str(work["epsilon"])), float(str(work["limit"]))
        if decides:
            spent = bool(work["spent"])
            if spent and not member.spent:
                self._tell(*budget_spent(member.name, member.epsilon, member.limit))
            member.spent = spent

    def _erased(self, member: Member, count: int) -> None:
        """Its owner has erased rows."""
        if count > member.erased:
            done = "deleted from its memories; the weights keep what they have learned"
            self.news.append(("rows erased", f"client {member.name}: {count - member.erased:,} rows", done))
            member.erased = count

    @property
    def _compares(self) -> bool:
        """Whether answers are compared with one another; not where none may change what becomes of another."""
        return self._wanted.checks and self._wanted.privacy is None

    def _too_large(self, action: str, found: Mapping[int, RecordDict], anchor: Weights) -> dict[int, str]:
        """Whose answers are out of all proportion to the others', and why."""
        if action in ("train.learn", "train.review"):
            learners, rules = [*found], self._described["rules"]
            return {learners[place]: why for place, why in outsized(updates_of(found, anchor), anchor, rules).items()}
        if action == "evaluate.receive":
            told_of = {client: told(content)["arrival"] for client, content in found.items()}
            come = {client: arrival for client, arrival in told_of.items() if arrival is not None}
            rows = {client: arrival["labelled"] for client, arrival in come.items()}
            return unusual({client: arrival["observed"] for client, arrival in come.items()}, rows)
        return {}

    def _failed(self, member: Member, action: str, why: Refused) -> None:
        if not self._wanted.accept_failures:
            raise WorkerLost(f"client {member.name}: {why}; {REMEDY}")
        member.failures += 1
        if action != "query.open":
            self.failed.append((member.index, shown(str(why))))
        left = f"left out until the run is started again: {FAILURES} failures in a row"
        if why.silent:
            self._lost(member, str(why), left if member.failures >= FAILURES else "its rows wait until it comes back")
            return
        done = "its answer was left out"
        if action == "query.open":
            done = "it takes no part"
        elif member.failures >= FAILURES:
            done = left
        self._tell("client refused", f"client {member.name}: {str(why).removeprefix(f'client {member.name}: ')}", done)

    def _lost(self, member: Member, why: str, done: str = "its rows wait until it comes back") -> None:
        """It is away, until its node, or another one, says its name again."""
        if member.node is not None:
            self.news.append(("client lost", shown(f"client {member.name}: {why}"), done))
        member.node = None

    def _refuse(self, node: int, who: str, why: str) -> None:
        self._strangers.add(node)
        self._tell("client refused", f"{who}: expected a client of this run, got {why}", "it takes no part")

    def _tell(self, kind: str, what: str, done: str) -> None:
        """Tell a person, now and in the events. What a client says may be anything."""
        self.news.append((kind, shown(what), done))
        print(f"incr: {shown(what)}; {done}", file=sys.stderr, flush=True)
