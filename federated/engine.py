"""The engine whose participants are Flower clients: each learns the rows it owns, and only what it learned travels."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from federated.client_app import ANCHOR, ORDER, ROWS, SHARED, WORK, app
from federated.clients import Client, clients_of, joined, spread
from federated.failures import raise_failures
from federated.grid import RayGrid
from federated.records import pack, payload, told, unpack
from federated.simulation import FlowerSimulation
from incr_core.engine import Engine, Round, merge_shared, total_measured
from incr_core.errors import StreamError, WorkerLost
from incr_core.job import Job
from incr_core.orders import Orders
from incr_core.participant import Arrival
from incr_core.quarantine import BadRow
from incr_core.states import state_folder
from incr_core.update import Update, Weights, mean

__all__ = ["FederatedEngine"]

PATIENCE = 180.0
"""Seconds to wait for the nodes of all clients to appear, and for them to answer first: on a busy machine, a worker
takes a minute to import what it needs."""


class FederatedEngine(Engine):
    """Drive clients over a Flower `Grid`; the server holds the anchor, and neither rows nor a model.

    grid: where the clients are; by default one is started as `job.federated` says. Clients are those of `clients_of`,
    and the node with partition number i is client i.

    Of an increment's clients with rows to learn, ceil(fraction * clients) are drawn for each round. One that is drawn
    in none keeps its rows and offers them again with the next increment. In the warm start all take part: there is no
    model yet that could do without them.
    """

    name = "federated"

    def __init__(self, job: Job, directory: Path, grid: Grid | None = None) -> None:
        super().__init__(job, directory)
        self.clients = clients_of(job)
        self._grid = grid
        self._lent = grid is not None
        self._simulation: FlowerSimulation | None = None
        self._nodes: list[int] = []
        self._model = Model({}, {}, consolidates=False, spans=False, shares=False)
        self._bytes, self._seconds = 0, 0.0
        self.reset()

    def reset(self) -> None:
        """Forget what the server holds; `start` makes the clients anew."""
        self._known = 0  # how many clients, the first, have a state at the commit to go on from
        self.outer = self.job.outer_step()
        self.anchor: Weights = {}
        self._merged: dict[str, Tensor] = {}
        self._span: dict[int, int] = {}  # rows that clients learned since they consolidated, where they do on order
        self._fragments: list[str] = []
        self._generator = torch.Generator().manual_seed(self.job.learner.seed)

    @property
    def participants(self) -> list[str]:
        """Names of the clients, in the order of their shares in every sum."""
        return [client.name for client in self.clients]

    @property
    def fragments(self) -> Sequence[str]:
        """Paths of the stream's fragments by number, as the clients have told them."""
        return self._fragments

    # -- beginning and ending ------------------------------------------------------------------------------------

    def start(self, version: int | None, weights: Weights | None) -> None:
        """Find the clients, and let each become itself: fresh, or as it was at a commit."""
        if self._grid is None:
            self._grid = self._start_grid()
        self._nodes = self._find_nodes(self._grid)
        travels = not isinstance(self._grid, RayGrid)
        job = self.job.model_dump_json()
        orders = []
        for client in self.clients:
            order: dict[str, Any] = {
                "job": job,
                "client": json.dumps(client.document()),
                "folder": str(self._folder(client.name)),
                "travels": travels,
                # Every client draws the same first weights from the job's seed; one of them tells.
                "describe": client.index == 0,
            }
            orders.append(order)
        known = len(self.clients) if version is None else self._known
        if version is not None:
            orders[:known] = [order | {"version": version} for order in orders[:known]]
        described = told(self._ask("query.open", self._everybody[:known], orders=orders[:known])[0])
        if new := self._everybody[known:]:
            # A place in the stream counts everybody's rows, so one client's place is every client's.
            orders = [order | {"cursor": described["cursor"]} for order in orders[known:]]
            self._ask("query.open", new, orders=orders)
        self._model = Model(
            described["rules"],
            described["shared_rules"],
            described["consolidates"],
            described["spans"],
            described["shares"],
        )
        self.anchor = described["weights"] if weights is None else weights
        if version is None and "sum" in self._model.shared_rules.values():
            self._merged = described["shared"]  # what additions are counted from
        self._bytes = 0  # an increment's bytes do not depend on how often the run was started

    def _start_grid(self) -> Grid:
        wanted = self.job.federated
        workers = min(wanted.workers, len(self.clients))
        if wanted.backend == "grid":
            return RayGrid(app, spread([client.rows for client in self.clients], workers))
        self._simulation = FlowerSimulation(app, len(self.clients), workers)
        return self._simulation.grid

    def _find_nodes(self, grid: Grid) -> list[int]:
        """The node of each client, by the partition number that the node was given."""
        deadline = time.monotonic() + PATIENCE
        # Flower's grids say who is there only when asked, and nodes come one by one.
        while len(found := sorted(grid.get_node_ids())) < len(self.clients) and time.monotonic() < deadline:
            time.sleep(0.05)
        sent = [Message(RecordDict(), node, "query.hello") for node in found]
        by_partition: dict[int, int] = {}
        for reply in grid.send_and_receive(sent, timeout=PATIENCE):
            if reply.has_content():
                index = int(str(reply.content.config_records[ORDER]["partition-id"]))
                by_partition[index] = reply.metadata.src_node_id
        missing = [client.name for client in self.clients if client.index not in by_partition]
        if missing:
            raise WorkerLost(
                f"client {', '.join(missing[:5])}: no node has answered for it within {PATIENCE:.0f} s; {len(found)} "
                f"nodes are there for {len(self.clients)} clients; node i needs partition-id=i and a free worker"
            )
        return [by_partition[client.index] for client in self.clients]

    def close(self) -> None:
        """Stop the simulated clients; nodes of a grid that was lent stay."""
        if self._simulation is not None:
            self._simulation.close()
        elif isinstance(self._grid, RayGrid) and not self._lent:
            self._grid.close()
        self._simulation = self._grid = None

    # -- an increment --------------------------------------------------------------------------------------------

    def receive(self) -> list[Arrival]:
        """Let every client take its next increment; one whose stream has ended has nothing to tell."""
        known = len(self._fragments)
        # Over several increments, what clients share goes its own way until they consolidate on order.
        merged = None if self._model.spans else self._merged
        answers = self._ask(
            "evaluate.receive", self._everybody, {"fragments": known}, anchor=self.anchor, shared=merged
        )
        arrivals: list[Arrival | None] = []
        for answer in map(told, answers):
            self._fragments += answer["fragments"][len(self._fragments) - known :]
            arrivals.append(None if answer["arrival"] is None else _arrival(answer["arrival"]))
        here = [
            (client, arrival) for client, arrival in zip(self.clients, arrivals, strict=True) if arrival is not None
        ]
        if not here:
            return []
        leader, first = here[0]
        for client, arrival in here:
            if (arrival.number, arrival.name) != (first.number, first.name):
                raise StreamError(
                    f"client {client.name}: expected increment {first.number} ({first.name}), where {leader.name} is, "
                    f"got {arrival.number} ({arrival.name}); the source has changed while the clients were reading it: "
                    "run the same command again"
                )
        return [_nothing(first) if arrival is None else arrival for arrival in arrivals]

    def learn(self, arrivals: Sequence[Arrival]) -> Round:
        """Adopt, learn, mean, outer step, as often as there are rounds; then consolidate."""
        done, begun, waited = Round(), time.perf_counter(), self._seconds
        rounds, learners = self._draw(arrivals)
        if learners:
            self._observe(total_measured([arrivals[client] for client in learners]))
            rows = self._rounds(rounds, done)
            if self._model.consolidates:
                self._consolidate(rows)
            elif self._model.spans:
                for client, count in rows.items():
                    self._span[client] = self._span.get(client, 0) + count
        return self._told_of(done, begun, waited)

    def _told_of(self, done: Round, begun: float, waited: float) -> Round:
        """What rounds took that began at `begun`, when clients had worked for `waited` seconds."""
        done.seconds_learning = self._seconds - waited
        done.seconds_exchanging = time.perf_counter() - begun - done.seconds_learning
        done.bytes_exchanged, self._bytes = self._bytes, 0
        return done

    def review(self, rows: Mapping[str, Tensor]) -> Round:
        """Let the clients learn their rows of the history, and merge once."""
        done, begun, waited = Round(), time.perf_counter(), self._seconds
        drawn = [client for client in self._everybody if len(rows.get(self.clients[client].name, ()))]
        ids = [{ROWS: pack({"rows": rows[self.clients[client].name]})} for client in drawn]
        answers = self._ask("train.review", drawn, anchor=self.anchor, shared=self._merged, records=ids)
        self._step(answers, done)
        return self._told_of(done, begun, waited)

    def order(self, orders: Orders) -> None:
        """Let all clients do it; those that have learned since they consolidated do so again."""
        if orders.consolidate and self._span:
            self._consolidate(self._span)
            self._span = {}
        # What was merged must be there for the next step; the next increment's first message may come after it.
        merged = self._merged if orders.consolidate else None
        self._ask("train.follow", self._everybody, {"orders": json.dumps(asdict(orders))}, shared=merged)

    def adopt(self, weights: Weights) -> None:
        """The anchor is what clients begin their next message with."""
        self.anchor = {name: value.clone() for name, value in weights.items()}

    def refuse(self, arrivals: Sequence[Arrival]) -> Round:
        """Let the clients that would have learned let their rows go."""
        _, learners = self._draw(arrivals)
        self._ask("train.refuse", learners)
        done = Round(bytes_exchanged=self._bytes)
        self._bytes = 0
        return done

    def _draw(self, arrivals: Sequence[Arrival]) -> tuple[list[list[int]], list[int]]:
        """The clients of each round, and all of them; the arrivals of others tell no rows any more."""
        rounds = self._drawn(arrivals)
        learners = sorted({client for drawn in rounds for client in drawn})
        for client, arrival in enumerate(arrivals):
            if client not in learners:
                # Held back by the client, and told again when they are offered again.
                arrival.rows = arrival.rows[:0]
        return rounds, learners

    def _drawn(self, arrivals: Sequence[Arrival]) -> list[list[int]]:
        candidates = [client for client, arrival in enumerate(arrivals) if arrival.labelled]
        wanted, count = self.job.federated, len(candidates)
        if not candidates:
            return []
        if wanted.fraction == 1.0 or any(arrival.warm for arrival in arrivals):
            return [candidates] * wanted.rounds
        size = math.ceil(wanted.fraction * count)
        draws = [torch.randperm(count, generator=self._generator)[:size].sort().values for _ in range(wanted.rounds)]
        return [[candidates[place] for place in draw.tolist()] for draw in draws]

    def _observe(self, measured: Mapping[str, Tensor]) -> None:
        """Add what the learners' rows add to running statistics."""
        for name, value in measured.items():
            self.anchor[name] = self.anchor[name].clone()
            self.anchor[name] += value

    def _rounds(self, rounds: Sequence[Sequence[int]], done: Round) -> dict[int, int]:
        """Learn, merge, step; returns how many rows each client learned."""
        learned: dict[int, int] = {}
        for drawn in rounds:
            orders = [{"first": client not in learned} for client in drawn]
            answers = self._ask("train.learn", drawn, orders=orders, anchor=self.anchor)
            for client, update in zip(drawn, self._step(answers, done), strict=True):
                learned[client] = learned.get(client, 0) + update.rows
        return learned

    def _step(self, answers: Sequence[RecordDict], done: Round) -> list[Update]:
        """Merge the updates of a round and take the outer step."""
        updates = [_update(answer) for answer in answers]
        done.add(updates)
        if any(update.rows for update in updates):
            merged = mean(updates, self.anchor, self._model.rules)
            following = self.outer.step(self.anchor, merged, self._model.rules)
            # A lone update is its own mean, and its memory is on loan from the grid.
            self.anchor = {name: value.clone() for name, value in following.items()}
        return updates

    def _consolidate(self, rows: Mapping[int, int]) -> None:
        learners = sorted(rows)
        answers = self._ask("train.consolidate", learners, anchor=self.anchor)
        if self._model.shares:
            states = [unpack(answer.array_records[SHARED], copy=False) for answer in answers]
            weights = [rows[client] for client in learners]
            self._merged = merge_shared(states, weights, self._model.shared_rules, self._merged)

    def save(self, version: int) -> None:
        """Let every client keep its state for this version, on its own disk."""
        orders = [{"folder": str(self._folder(client.name)), "version": version} for client in self.clients]
        self._ask("query.save", self._everybody, orders=orders)

    def weights(self) -> Weights:
        """The anchor."""
        return self.anchor

    def state_dict(self) -> dict[str, Any]:
        """The clients, the outer step's state, the draw, what strategies share, and the fragments known."""
        return {
            "clients": [client.document() for client in self.clients],
            "outer": self.outer.state_dict(),
            "generator": self._generator.get_state(),
            "merged": self._merged,
            "span": self._span,
            "fragments": list(self._fragments),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back; clients that are new in the source come after those of the state."""
        known = [Client.from_document(document) for document in state["clients"]]
        self.clients, self._known = joined(known, self.clients), len(known)
        self.outer.load_state_dict(state["outer"])
        self._generator.set_state(state["generator"])
        self._merged = dict(state["merged"])
        self._span = dict(state["span"])
        self._fragments = list(state["fragments"])

    # -- messages ------------------------------------------------------------------------------------------------

    @property
    def _everybody(self) -> range:
        return range(len(self.clients))

    def _folder(self, client: str) -> Path:
        return state_folder(self.directory.absolute(), client, 0).parent

    def _ask(
        self,
        action: str,
        clients: Sequence[int],
        order: Mapping[str, Any] | None = None,
        *,
        orders: Sequence[Mapping[str, Any]] | None = None,
        records: Sequence[Mapping[str, ArrayRecord]] | None = None,
        anchor: Weights | None = None,
        shared: Mapping[str, Tensor] | None = None,
    ) -> list[RecordDict]:
        """Send a message to each of these clients and return their answers in the same order.

        Law 8 is kept here: whoever answers first, sums run in the order of `clients`.
        """
        assert self._grid is not None, "start the engine before asking its clients"
        common = {ANCHOR: pack(anchor)} if anchor is not None else {}
        if shared:
            common[SHARED] = pack(shared)
        every = ConfigRecord(dict(order or {}))
        contents = [
            RecordDict(
                {
                    **common,
                    **({} if records is None else records[place]),
                    ORDER: every if orders is None else ConfigRecord(dict(orders[place])),
                }
            )
            for place in range(len(clients))
        ]
        nodes = [self._nodes[client] for client in clients]
        replies = {
            reply.metadata.src_node_id: reply
            for reply in self._grid.send_and_receive(
                Message(content, node, action) for content, node in zip(contents, nodes, strict=True)
            )
        }
        answers = [replies.get(node) for node in nodes]
        raise_failures([self.clients[client].name for client in clients], answers)
        found = [answer.content for answer in answers if answer is not None]
        self._bytes += sum(map(payload, contents)) + sum(map(payload, found))
        self._seconds += _busiest(found)
        return found


@dataclass(frozen=True, slots=True)
class Model:
    """What the server knows of the model: how each weight and each shared strategy entry merges; whether strategies
    consolidate after each increment, or, over several, when told to.
    """

    rules: dict[str, str]
    shared_rules: dict[str, str]
    consolidates: bool
    spans: bool
    shares: bool


def _busiest(answers: Sequence[RecordDict]) -> float:
    """Seconds that the process which worked longest has worked."""
    worked: dict[int, float] = {}
    for answer in answers:
        work = answer.config_records[WORK]
        process = int(str(work["process"]))
        worked[process] = worked.get(process, 0.0) + float(str(work["seconds"]))
    return max(worked.values(), default=0.0)


def _update(answer: RecordDict) -> Update:
    document = told(answer)
    return Update(unpack(answer.array_records["weights"], copy=False), document["rows"], document["losses"])


def _arrival(document: dict[str, Any]) -> Arrival:
    return Arrival(**document | {"bad": [BadRow(**bad) for bad in document["bad"]]})


def _nothing(beside: Arrival) -> Arrival:
    """An arrival of no rows, beside those that others have."""
    none = torch.empty(0, dtype=torch.int64)
    return Arrival(beside.number, beside.name, beside.warm, 0, none, 0, 0, {}, {})
