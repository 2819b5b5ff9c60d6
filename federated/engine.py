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
from flwr.app import RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from federated.client_app import ROWS, SHARED
from federated.clients import Client, clients_of, joined
from federated.nodes import Nodes
from federated.records import pack, told, unpack
from incr_core.data.encoding import BadRow
from incr_core.engines import Engine, Round, merge_shared, total_measured
from incr_core.errors import StreamError
from incr_core.job import Job
from incr_core.registry import state_folder
from incr_core.rounds import Arrival, Orders
from incr_core.update import Update, Weights, mean

__all__ = ["FederatedEngine"]


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
        self._nodes = Nodes(job.federated, grid)
        self._terms = Terms({}, {}, consolidates=False, spans=False, shares=False, remakes=False)
        self.reset()

    def reset(self) -> None:
        """Forget what the server holds; `start` makes the clients anew."""
        self._saved = 0  # how many clients, the first ones, have a state at the commit to go on from
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
        self._nodes.reach(self.clients)
        job = self.job.model_dump_json()
        orders = []
        for client in self.clients:
            order: dict[str, Any] = {
                "job": job,
                "client": json.dumps(client.document()),
                "folder": str(self._folder(client.name)),
                "travels": not self._nodes.clients_stay,
                # Every client draws the same first weights from the job's seed; one of them tells.
                "describe": client.index == 0,
            }
            orders.append(order)
        known = len(self.clients) if version is None else self._saved
        if version is not None:
            orders[:known] = [order | {"version": version} for order in orders[:known]]
        described = told(self._nodes.ask("query.open", self._everybody[:known], orders=orders[:known])[0])
        if new := self._everybody[known:]:
            # A place in the stream counts everybody's rows, so one client's place is every client's.
            orders = [order | {"cursor": described["cursor"]} for order in orders[known:]]
            self._nodes.ask("query.open", new, orders=orders)
        self._terms = Terms(
            described["rules"],
            described["shared_rules"],
            described["consolidates"],
            described["spans"],
            described["shares"],
            described["remakes"],
        )
        self.anchor = described["weights"] if weights is None else weights
        if version is None and "sum" in self._terms.shared_rules.values():
            self._merged = described["shared"]  # what additions are counted from
        self._nodes.bytes = 0  # an increment's bytes do not depend on how often the run was started

    def close(self) -> None:
        """Stop the simulated clients; nodes of a grid that was lent stay."""
        self._nodes.close()

    # -- an increment --------------------------------------------------------------------------------------------

    def receive(self) -> list[Arrival]:
        """Let every client take its next increment; one whose stream has ended has nothing to tell."""
        known = len(self._fragments)
        # Over several increments, what clients share goes its own way until they consolidate on order.
        merged = None if self._terms.spans else self._merged
        answers = self._nodes.ask(
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
        return [_empty_arrival(first) if arrival is None else arrival for arrival in arrivals]

    def learn(self, arrivals: Sequence[Arrival]) -> Round:
        """Adopt, learn, mean, outer step, as often as there are rounds; then consolidate."""
        done, begun, worked = Round(), time.perf_counter(), self._nodes.seconds
        rounds, learners = self._choose(arrivals)
        if learners:
            self._observe(total_measured([arrivals[client] for client in learners]))
            self._learn_rounds(rounds, done)
            # Not what they passed over: each row taught strategies once, however many passes and rounds there were.
            rows = {client: arrivals[client].labelled for client in learners}
            if self._terms.consolidates:
                self._consolidate(rows)
            elif self._terms.spans:
                for client, count in rows.items():
                    self._span[client] = self._span.get(client, 0) + count
        return self._accounted(done, begun, worked)

    def _accounted(self, done: Round, begun: float, worked: float) -> Round:
        """The account of rounds that began at `begun`, when clients had worked for `worked` seconds."""
        done.seconds_learning = self._nodes.seconds - worked
        done.seconds_exchanging = time.perf_counter() - begun - done.seconds_learning
        done.bytes_exchanged, self._nodes.bytes = self._nodes.bytes, 0
        return done

    def review(self, rows: Mapping[str, Tensor]) -> Round:
        """Let the clients learn their rows of the history, and merge once."""
        done, begun, worked = Round(), time.perf_counter(), self._nodes.seconds
        drawn = [client for client in self._everybody if len(rows.get(self.clients[client].name, ()))]
        ids = [{ROWS: pack({"rows": rows[self.clients[client].name]})} for client in drawn]
        answers = self._nodes.ask("train.review", drawn, anchor=self.anchor, shared=self._merged, records=ids)
        self._step(answers, done)
        return self._accounted(done, begun, worked)

    def order(self, orders: Orders) -> None:
        """Let all clients do it; those that have learned since they consolidated do so again."""
        if orders.consolidate and self._span:
            self._consolidate(self._span)
            self._span = {}
        # What was merged must be there for the next step; the next increment's first message may come after it.
        merged = self._merged if orders.consolidate else None
        self._nodes.ask("train.follow", self._everybody, {"orders": json.dumps(asdict(orders))}, shared=merged)

    def adopt(self, weights: Weights) -> None:
        """The anchor is what clients begin their next message with."""
        self.anchor = {name: value.clone() for name, value in weights.items()}

    def refuse(self, arrivals: Sequence[Arrival]) -> Round:
        """Let the clients that would have learned let their rows go."""
        _, learners = self._choose(arrivals)
        self._nodes.ask("train.refuse", learners)
        done = Round(bytes_exchanged=self._nodes.bytes)
        self._nodes.bytes = 0
        return done

    def _choose(self, arrivals: Sequence[Arrival]) -> tuple[list[list[int]], list[int]]:
        """The clients of each round, and all of them; the arrivals of others tell no rows any more."""
        rounds = self._draw_rounds(arrivals)
        learners = sorted({client for drawn in rounds for client in drawn})
        for client, arrival in enumerate(arrivals):
            if client not in learners:
                # Held back by the client, and told again when they are offered again.
                arrival.rows = arrival.rows[:0]
        return rounds, learners

    def _draw_rounds(self, arrivals: Sequence[Arrival]) -> list[list[int]]:
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

    def _learn_rounds(self, rounds: Sequence[Sequence[int]], done: Round) -> None:
        """Learn, merge, step."""
        begun: set[int] = set()
        for drawn in rounds:
            orders = [{"first": client not in begun} for client in drawn]
            self._step(self._nodes.ask("train.learn", drawn, orders=orders, anchor=self.anchor), done)
            begun.update(drawn)

    def _step(self, answers: Sequence[RecordDict], done: Round) -> None:
        """Merge the updates of a round and take the outer step."""
        updates = [_update(answer) for answer in answers]
        done.add(updates)
        if any(update.rows for update in updates):
            merged = mean(updates, self.anchor, self._terms.rules)
            following = self.outer.step(self.anchor, merged, self._terms.rules)
            # A lone update is its own mean, and its memory is on loan from the grid.
            self.anchor = {name: value.clone() for name, value in following.items()}

    def _consolidate(self, rows: Mapping[int, int]) -> None:
        learners = sorted(rows)
        answers = self._nodes.ask("train.consolidate", learners, anchor=self.anchor)
        if self._terms.shares:
            states = [unpack(answer.array_records[SHARED], copy=False) for answer in answers]
            weights = [rows[client] for client in learners]
            self._merged = merge_shared(states, weights, self._terms.shared_rules, self._merged)
        if self._terms.remakes:
            updates = [
                Update(unpack(answer.array_records["weights"], copy=False), rows[client])
                for client, answer in zip(learners, answers, strict=True)
            ]
            merged = mean(updates, self.anchor, self._terms.rules)
            self.anchor = {name: value.clone() for name, value in merged.items()}

    def save(self, version: int) -> None:
        """Let every client keep its state for this version, on its own disk."""
        orders = [{"folder": str(self._folder(client.name)), "version": version} for client in self.clients]
        self._nodes.ask("query.save", self._everybody, orders=orders)

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
        self.clients, self._saved = joined(known, self.clients), len(known)
        self.outer.load_state_dict(state["outer"])
        self._generator.set_state(state["generator"])
        self._merged = dict(state["merged"])
        self._span = dict(state["span"])
        self._fragments = list(state["fragments"])

    @property
    def _everybody(self) -> range:
        return range(len(self.clients))

    def _folder(self, client: str) -> Path:
        return state_folder(self.directory.absolute(), client, 0).parent


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms clients merge: the rules of weights and of what strategies share, if they share anything.

    consolidates: strategies do so after each increment; spans: over several, when told to. remakes: it changes weights.
    """

    rules: dict[str, str]
    shared_rules: dict[str, str]
    consolidates: bool
    spans: bool
    shares: bool
    remakes: bool


def _update(answer: RecordDict) -> Update:
    document = told(answer)
    return Update(unpack(answer.array_records["weights"], copy=False), document["rows"], document["losses"])


def _arrival(document: dict[str, Any]) -> Arrival:
    return Arrival(**document | {"bad": [BadRow(**bad) for bad in document["bad"]]})


def _empty_arrival(beside: Arrival) -> Arrival:
    """An arrival of no rows, beside those that others have."""
    none = torch.empty(0, dtype=torch.int64)
    return Arrival(beside.number, beside.name, beside.warm, 0, none, 0, 0, {}, {})
