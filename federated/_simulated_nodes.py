"""Simulated clients: each is the node with its partition number, and its stream its part of a table that all read."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from federated._client_batches import batches_of, workers_of
from federated._client_failures import raise_failures
from federated._client_names import clients_of, joined
from federated._grid import RayGrid
from federated._message_records import ALONE, ORDER, WORK
from federated._records import filled, told
from federated._roster import LEARNS, Roster, budget_spent, failures_of
from federated._simulated_absences import Absences
from federated._simulated_client import Client
from federated._simulation import FlowerSimulation
from federated.client_app import app
from incr_core.data.encoding import BadFile, BadRow
from incr_core.data.timeline import Tick
from incr_core.engines import Commit
from incr_core.errors import JobError, StreamError, WorkerLost
from incr_core.job import Job
from incr_core.registry import state_folder
from incr_core.rounds import WAITING, Arrival
from incr_core.storage import bring
from incr_core.update import Weights

__all__ = ["SimulatedNodes"]

PATIENCE = 180.0
"""Seconds to wait for the nodes of all clients to appear, and for them to answer first: on a busy machine, a worker
takes a minute to import what it needs."""


class SimulatedNodes(Roster):
    """The clients of `clients_of`; the node with partition number i is client i. Each must answer.

    directory: the run directory, which they write to. grid: where they are; None starts one as the job says.
    """

    def __init__(self, job: Job, directory: Path, grid: Grid | None = None) -> None:
        super().__init__()
        self._job, self._directory = job, directory
        self._grid = grid
        self._lent = grid is not None
        self._simulation: FlowerSimulation | None = None
        self._nodes: list[int] = []
        self._told_alone = False
        self._spent = set[str]()
        self.clients = self._of(job)
        self._absences: Absences | None = None
        self.held_out = _places(job.federated.held_out, self.names)

    def _of(self, job: Job) -> list[Client]:
        """The clients of a job."""
        return clients_of(job)

    @property
    def names(self) -> list[str]:
        """The clients' names."""
        return [client.name for client in self.clients]

    @property
    def there(self) -> range:
        """All of them."""
        return range(len(self.clients))

    # -- beginning and ending ----------------------------------------------------------------------------------------

    def start(self, commit: Commit | None) -> Mapping[str, Any]:
        """Find the node of every client, and open it. Raises WorkerLost where a client has none."""
        self._begin_holding(commit)
        bring(self._directory / "state")  # for clients in other processes
        self.origins, known = [], len(self.clients)
        if commit is not None:
            before = [Client.from_document(document) for document in commit.engine["clients"]]
            known = len(before)
            self.clients = joined(before, self.clients)  # those that are new in the source come last
            self.held_out = _places(self._job.federated.held_out, self.names)
            self.origins = list(commit.engine["fragments"])
        if self._job.federated.availability is not None:
            self._absences = Absences(self._job, self.names)
            self._absences.load_state_dict(None if commit is None else commit.engine["absences"])
        self._spent = set(commit.engine.get("spent", ())) if commit is not None else set()
        if self._grid is None:
            self._grid = self._started()
        self._nodes = self._found(self._grid)
        job = self._job.model_dump_json()
        orders = []
        for client in self.clients:
            order: dict[str, Any] = {
                "job": job,
                "client": json.dumps(client.document()),
                "folder": str(self._folder(client.name)),
                # A client of our grid always meets the same process.
                "travels": not isinstance(self._grid, RayGrid),
                # Every client draws the same first weights from the job's seed; one of them tells.
                "describe": client.index == 0,
            }
            orders.append(order)
        if commit is not None:
            orders[:known] = [order | {"version": commit.version} for order in orders[:known]]
        described: Mapping[str, Any] = told(self.ask("query.open", self.there[:known], orders=orders[:known])[0])
        if new := self.there[known:]:
            # A place in the stream counts everybody's rows, so one client's place is every client's.
            orders = [order | {"cursor": described["cursor"]} for order in orders[known:]]
            self.ask("query.open", new, orders=orders)
        self._count_on(commit)
        return described

    def _started(self) -> Grid:
        wanted = self._job.federated
        workers = min(wanted.workers, len(self.clients))
        if wanted.backend == "grid":
            return RayGrid(
                app,
                len(self.clients),
                self._workers_of(workers),
                gpu=self._job.learner.device.startswith("cuda"),
            )
        self._simulation = FlowerSimulation(app, len(self.clients), workers)
        return self._simulation.grid

    def _workers_of(self, workers: int) -> list[int]:
        """The worker of each client, of so many."""
        return workers_of(self.clients, self._job.federated, workers)

    def _found(self, grid: Grid) -> list[int]:
        """The node of each client, by the partition number that the node was given."""
        deadline = time.monotonic() + PATIENCE
        # Flower's grids say who is there only when asked, and nodes come one by one.
        with failures_of(grid, "finding the clients"):
            while len(found := sorted(grid.get_node_ids())) < len(self.clients) and time.monotonic() < deadline:
                time.sleep(0.05)
            sent = [Message(RecordDict(), node, "query.hello") for node in found]
            replies = list(grid.send_and_receive(sent, timeout=PATIENCE))
        by_partition: dict[int, int] = {}
        for reply in replies:
            if reply.has_content():
                index = int(str(reply.content.config_records[ORDER].get("partition-id", -1)))
                by_partition[index] = reply.metadata.src_node_id
        missing = [client.name for client in self.clients if client.index not in by_partition]
        if missing:
            reasons = [reply.error.reason for reply in replies if reply.has_error() and reply.error.reason]
            raise WorkerLost(
                f"client {', '.join(missing[:5])}: no node has answered for it within {PATIENCE:.0f} s; {len(found)} "
                f"nodes are there for {len(self.clients)} clients; node i needs partition-id=i and a free worker"
                + (f"; the first answer is an error: {reasons[0]}" if reasons else "")
            )
        return [by_partition[client.index] for client in self.clients]

    def save(self, version: int) -> dict[str, Any]:
        """Let every client keep its state; returns the clients and the fragments known."""
        orders = [{"folder": str(self._folder(client.name)), "version": version} for client in self.clients]
        self.ask("query.save", self.there, orders=orders)
        self.news = []
        kept = {"clients": [client.document() for client in self.clients], "fragments": list(self.origins)}
        spent = {"spent": sorted(self._spent)} if self._spent else {}
        return (
            kept | spent | self._held() | ({} if self._absences is None else {"absences": self._absences.state_dict()})
        )

    def told(self) -> dict[str, Any]:
        """The rows that wait for clients that were away, or did not answer."""
        if self._absences is None:
            return {}
        return {"rows_pending": {self.clients[one].name: rows for one, rows in self._absences.pending.items()}}

    def batched(self, clients: Sequence[int], orders: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Orders to learn, with the batch that each client is learned in, where several are learned as one."""
        wanted = self._job.federated
        if not wanted.batch_clients:
            return orders
        batches = batches_of(clients, wanted.batch_clients, wanted.block(len(self.clients)))
        return [{**order, "batch": batch} for order, batch in zip(orders, batches, strict=True)]

    def close(self) -> None:
        """Stop the simulated clients; nodes of a grid that was lent stay."""
        if self._simulation is not None:
            self._simulation.close()
        elif isinstance(self._grid, RayGrid) and not self._lent:
            self._grid.close()
        self._simulation = self._grid = None

    def _folder(self, client: str) -> Path:
        return state_folder(self._directory.absolute(), client, 0).parent

    # -- an increment ------------------------------------------------------------------------------------------------

    def receive(self, anchor: Weights, shared: Mapping[str, Tensor] | None) -> list[Arrival]:
        """Let every client take its next increment; one whose stream has ended has nothing to tell."""
        known = len(self.origins)
        answers = self.ask("evaluate.receive", self.there, {"fragments": known}, anchor=anchor, shared=shared)
        arrivals: list[Arrival | None] = []
        for place, answer in enumerate(map(told, answers.values())):
            self._heard(place, answer)
            self.origins += answer["fragments"][len(self.origins) - known :]
            arrivals.append(None if answer["arrival"] is None else _arrival(answer["arrival"]))
        here = [
            (client, arrival) for client, arrival in zip(self.clients, arrivals, strict=True) if arrival is not None
        ]
        if not here:
            return []
        leader, first = here[0]
        tick = first.tick
        for client, arrival in here:
            if (found := arrival.tick) != tick:
                raise StreamError(
                    f"client {client.name}: expected increment {tick.number} ({tick.name}), where {leader.name} is, "
                    f"got {found.number} ({found.name}); the source has changed while the clients were reading it: "
                    "run the same command again"
                )
        everyone = [Arrival(tick) if arrival is None else arrival for arrival in arrivals]
        if self.held_out and tick.name == WAITING:
            left = [client for client, arrival in enumerate(everyone) if arrival.labelled]
            if self.held_out.issuperset(left):
                return []
        return everyone if self._absences is None or self._absences.begin(everyone) else self._ended(self._absences)

    def _heard(self, client: int, answer: Mapping[str, Any]) -> None:
        """What a client has told of its next increment, besides the arrival."""

    # -- who is there, where that is simulated -----------------------------------------------------------------------

    def may_learn(self, client: int) -> bool:
        """Whether it is there."""
        return self._absences is None or client in self._absences.there

    def answering(self, drawn: Sequence[int], number: int) -> Sequence[int]:
        """Those whose answers come in time; of the others, tell that their rows are pending."""
        if self._absences is None or not (lost := self._absences.lost(drawn, number)):
            return drawn
        self.failed += lost.items()
        whys = Counter(why.partition(":")[0] for why in lost.values())
        told = ", ".join(f"{count} {why}" for why, count in sorted(whys.items()))
        what = f"{len(lost)} of {len(drawn)} clients that were to learn: {told}"
        self.news.append(("clients lost", what, "their rows are pending"))
        return [client for client in drawn if client not in lost]

    def settle(self, arrivals: Sequence[Arrival], *, learned: bool = True) -> None:
        """Note whose rows are pending."""
        if self._absences is not None:
            self._absences.settle(arrivals)

    def _ended(self, absences: Absences) -> list[Arrival]:
        rows = sum(absences.pending.values())
        print(
            f"incr: {rows:,} rows of {len(absences.pending):,} clients are pending: they were away, or did not answer, "
            "to the end (rows_pending in summary.json)",
            file=sys.stderr,
        )
        return []

    # -- a question --------------------------------------------------------------------------------------------------

    @property
    def _reached(self) -> Grid:
        assert self._grid is not None, "reach the clients before asking them"
        return self._grid

    def _node(self, client: int) -> int:
        return self._nodes[client]

    def _accepted(
        self, action: str, clients: Sequence[int], answers: list[Message | None], anchor: Weights | None
    ) -> dict[int, RecordDict]:
        """All answers, or the first failure among them, raised."""
        raise_failures([self.clients[client].name for client in clients], answers)
        found = zip(clients, answers, strict=True)
        contents = {client: answer.content for client, answer in found if answer is not None}
        if action in LEARNS and self.wire is not None:
            for content in contents.values():
                self.wire.decode(content, anchor or {}, self.rules)
        if action == "train.learn" and self._job.federated.batch_clients:
            self._notice(contents)
        for client, content in contents.items():
            work, name = content.config_records[WORK], self.clients[client].name
            if work.get("spent", False) and name not in self._spent:
                self._spent.add(name)
                self.news.append(budget_spent(name, float(str(work["epsilon"])), float(str(work["limit"]))))
        return contents

    def _notice(self, contents: Mapping[int, RecordDict]) -> None:
        """Tell once why clients are learned one by one that were to be learned as one batch."""
        reasons = [str(content.config_records[WORK].get(ALONE, "")) for content in contents.values()]
        why = next((reason for reason in reasons if reason), None)
        if why is not None and not self._told_alone:
            self._told_alone = True
            self.news.append(("one by one", f"federated.batch_clients: {why}", "clients are learned one by one"))


def _places(wanted: Sequence[str], names: Sequence[str]) -> set[int]:
    """The places of these clients. JobError where one is none of the run's, or all are meant."""
    known = {name: place for place, name in enumerate(names)}
    if unknown := [name for name in wanted if name not in known]:
        raise JobError(
            f"federated.held_out: expected names of clients of the run, such as {names[0]!r}, got {unknown[0]!r}"
        )
    if wanted and len({*wanted}) == len(known):
        raise JobError("federated.held_out: expected clients that learn, got the names of all; leave one out")
    return {known[name] for name in wanted}


def _arrival(document: dict[str, Any]) -> Arrival:
    records = {
        "tick": Tick(**document["tick"]),
        "statistics": filled(document["statistics"]),
        "sliced": {name: (rows, filled(sums)) for name, (rows, sums) in document["sliced"].items()},
        "bad": [BadRow(**row) for row in document["bad"]],
        "bad_files": [BadFile(**file) for file in document["bad_files"]],
    }
    return Arrival(**document | records)
