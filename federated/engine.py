"""The engine whose participants are Flower clients: each learns the rows it owns, and only what it learned travels."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flwr.serverapp import Grid
from torch import Tensor

from federated.client_app import ROWS
from federated.clients import Client, clients_of, joined
from federated.cohort import ClientCohort, Terms, updates_of
from federated.nodes import Nodes
from federated.records import pack, told
from incr_core.data.encoding import BadFile, BadRow
from incr_core.data.timeline import Tick
from incr_core.engines import Commit, Engine
from incr_core.errors import JobError, StreamError
from incr_core.job import Job
from incr_core.registry import state_folder
from incr_core.rounds import Arrival, Orders, Round, consolidate, take_round, total_observed
from incr_core.storage import bring
from incr_core.update import Update, Weights

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
        if job.objects_given:
            # A client is told the job in a message of plain values.
            raise JobError(
                f"on: expected a job whose parts have names that clients can look up, got objects of this process "
                f'({", ".join(job.objects_given)}); name models and strategies by "module:name" and rows by a path, '
                'or learn on "local" or "cluster"'
            )
        if job.cluster.memory_scope == "all":
            raise JobError(
                'cluster.memory_scope: expected "own" with --on federated, whose clients keep their rows to '
                'themselves, got "all"; leave it out (--set cluster.memory_scope=own)'
            )
        self.clients = clients_of(job)
        self._nodes = Nodes(job.federated, grid)
        self._renew()

    def _renew(self) -> None:
        """Let go of what the server holds; `start` makes the clients anew."""
        self.cohort = ClientCohort(self._nodes, self.job.outer_step())
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

    def start(self, commit: Commit | None) -> None:
        """Find the clients, and let each become itself: fresh, or as it was at a commit."""
        self._renew()
        bring(self.directory / "state")  # for clients in other processes
        known = len(self.clients) if commit is None else self._restore(commit.engine)
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
        if commit is not None:
            orders[:known] = [order | {"version": commit.version} for order in orders[:known]]
        described = told(self._nodes.ask("query.open", self._everybody[:known], orders=orders[:known])[0])
        if new := self._everybody[known:]:
            # A place in the stream counts everybody's rows, so one client's place is every client's.
            orders = [order | {"cursor": described["cursor"]} for order in orders[known:]]
            self._nodes.ask("query.open", new, orders=orders)
        cohort = self.cohort
        cohort.terms = Terms.of(described)
        cohort.weights = described["weights"] if commit is None else commit.weights
        if commit is None and "sum" in cohort.terms.shared_rules.values():
            cohort.shared = described["shared"]  # what additions are counted from
        self._nodes.bytes = 0  # an increment's bytes do not depend on how often the run was started

    def _restore(self, state: Mapping[str, Any]) -> int:
        """Take back what `save` returned; how many clients, the first ones, have a state at that commit."""
        known = [Client.from_document(document) for document in state["clients"]]
        self.clients = joined(known, self.clients)  # those that are new in the source come last
        self.cohort.outer.load_state_dict(state["outer"])
        self.cohort.shared = dict(state["shared"])
        self.cohort.unconsolidated = dict(state["unconsolidated"])
        self._generator.set_state(state["generator"])
        self._fragments = list(state["fragments"])
        return len(known)

    def close(self) -> None:
        """Stop the simulated clients; nodes of a grid that was lent stay."""
        self._nodes.close()

    # -- an increment --------------------------------------------------------------------------------------------

    def receive(self) -> list[Arrival]:
        """Let every client take its next increment; one whose stream has ended has nothing to tell."""
        known = len(self._fragments)
        # Over several increments, what clients share goes its own way until they consolidate on order.
        cohort = self.cohort
        shared = None if cohort.terms.spans else cohort.shared
        answers = self._nodes.ask(
            "evaluate.receive", self._everybody, {"fragments": known}, anchor=cohort.weights, shared=shared
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
        tick = first.tick
        for client, arrival in here:
            if (found := arrival.tick) != tick:
                raise StreamError(
                    f"client {client.name}: expected increment {tick.number} ({tick.name}), where {leader.name} is, "
                    f"got {found.number} ({found.name}); the source has changed while the clients were reading it: "
                    "run the same command again"
                )
        return [Arrival(tick) if arrival is None else arrival for arrival in arrivals]

    def learn(self, arrivals: Sequence[Arrival], rows: Mapping[str, Tensor] | None = None) -> Round:
        """Let the clients that are drawn learn the increment, or all of them their rows of the history."""
        done, begun, worked = Round(), time.perf_counter(), self._nodes.seconds
        if rows is None:
            self._learn(arrivals, done)
        elif rows:
            take_round(self.cohort, partial(self._review, rows), done)
        else:
            self._nodes.ask("train.skip", self._choose(arrivals)[1])
        done.seconds_learning = self._nodes.seconds - worked
        done.seconds_exchanging = time.perf_counter() - begun - done.seconds_learning
        done.bytes_exchanged, self._nodes.bytes = self._nodes.bytes, 0
        return done

    def _learn(self, arrivals: Sequence[Arrival], done: Round) -> None:
        rounds, learners = self._choose(arrivals)
        if not learners:
            return
        cohort, begun = self.cohort, set[int]()
        cohort.absorb(total_observed([arrivals[client] for client in learners]))
        for drawn in rounds:
            orders = [{"first": client not in begun} for client in drawn]
            take_round(cohort, partial(self._advance, drawn, orders), done)
            begun.update(drawn)
        if cohort.terms.consolidates or cohort.terms.spans:
            # Not what they passed over: each row taught strategies once, however many passes and rounds there were.
            for client in learners:
                rows = cohort.unconsolidated.get(client, 0) + arrivals[client].labelled
                cohort.unconsolidated[client] = rows
        if cohort.terms.consolidates:
            consolidate(cohort)

    def _advance(self, drawn: Sequence[int], orders: Sequence[Mapping[str, Any]]) -> list[Update]:
        return updates_of(self._nodes.ask("train.learn", drawn, orders=orders, anchor=self.cohort.weights))

    def _review(self, rows: Mapping[str, Tensor]) -> list[Update]:
        drawn = [client for client in self._everybody if len(rows.get(self.clients[client].name, ()))]
        ids = [{ROWS: pack({"rows": rows[self.clients[client].name]})} for client in drawn]
        cohort = self.cohort
        return updates_of(
            self._nodes.ask("train.review", drawn, anchor=cohort.weights, shared=cohort.shared, records=ids)
        )

    def order(self, orders: Orders, weights: Weights | None = None) -> None:
        """Let all clients do it; those that have learned since they consolidated do so again."""
        cohort = self.cohort
        if orders.consolidate and cohort.unconsolidated:
            consolidate(cohort)
        if orders:
            # What was merged must be there for the next step; the next increment's first message may come after it.
            shared = cohort.shared if orders.consolidate else None
            self._nodes.ask("train.follow", self._everybody, {"orders": json.dumps(asdict(orders))}, shared=shared)
        if weights is not None:
            cohort.adopt(weights)

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
        if wanted.fraction == 1.0 or any(arrival.tick.warm for arrival in arrivals):
            return [candidates] * wanted.rounds
        size = math.ceil(wanted.fraction * count)
        draws = [torch.randperm(count, generator=self._generator)[:size].sort().values for _ in range(wanted.rounds)]
        return [[candidates[place] for place in draw.tolist()] for draw in draws]

    def save(self, version: int) -> dict[str, Any]:
        """Let every client keep its state for this version, on its own disk.

        Returns the clients, the outer step's state, the draw, what strategies share, and the fragments known.
        """
        orders = [{"folder": str(self._folder(client.name)), "version": version} for client in self.clients]
        self._nodes.ask("query.save", self._everybody, orders=orders)
        return {
            "clients": [client.document() for client in self.clients],
            "outer": self.cohort.outer.state_dict(),
            "generator": self._generator.get_state(),
            "shared": self.cohort.shared,
            "unconsolidated": self.cohort.unconsolidated,
            "fragments": list(self._fragments),
        }

    def weights(self) -> Weights:
        """The anchor."""
        return self.cohort.weights

    @property
    def _everybody(self) -> range:
        return range(len(self.clients))

    def _folder(self, client: str) -> Path:
        return state_folder(self.directory.absolute(), client, 0).parent


def _arrival(document: dict[str, Any]) -> Arrival:
    records = {
        "tick": Tick(**document["tick"]),
        "bad": [BadRow(**row) for row in document["bad"]],
        "bad_files": [BadFile(**file) for file in document["bad_files"]],
    }
    return Arrival(**document | records)
