"""A worker: one shard of one replica, with its participant and its part in every exchange.

It knows nothing of Ray; the crew makes an actor of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cluster import groups
from cluster.exchange import Exchange
from cluster.heartbeat import Heartbeat
from cluster.parcel import Parcel, open_parcel, parcel
from cluster.place import Place
from cluster.rendezvous import Rendezvous, use_interface_to
from incr_core.data.timeline import Blocks, ByHash, Partition
from incr_core.engines import Round
from incr_core.job import Job
from incr_core.numerics import local, settle_arithmetic, whole
from incr_core.rounds import Arrival, Orders, Outer, Participant
from incr_core.storage import checkpoint
from incr_core.update import Update, Weights

__all__ = ["Handover", "Received", "ShardWorker", "partition_of"]

BEATS = 5
"""Signs of life within the time after which silence counts as death."""

PATIENCE = 30
"""How many timeouts a worker waits for a slow peer; that one is dead or silent, the driver notices long before."""


@dataclass(slots=True)
class Received:
    """What a replica tells about the increment it took.

    steps: optimiser steps it will take; fragments: paths of those fragments of the stream that are new.
    """

    arrival: Arrival
    steps: int
    fragments: list[str]


@dataclass(slots=True)
class Handover:
    """What the first replica hands over for a commit: the whole weights, and the stream's recent outcomes."""

    weights: Parcel
    history: Any


class ShardWorker:
    """Hold one shard of one replica."""

    participant: Participant
    outer: Outer

    def __init__(self, place: Place) -> None:
        self.place = place

    def build(self, document: Mapping[str, Any], meeting: Rendezvous) -> int:
        """Join the others and build the participant; returns the process id.

        Not done at construction, so that an error of the job arrives as itself and not as a dead actor.
        """
        place = self.place
        self._job = job = Job.model_validate(document)
        settle_arithmetic(job.learner.threads)
        use_interface_to(meeting.host)
        # A connection of its own: waiting for peers on the other must not silence the heart.
        Heartbeat(meeting.join(), place.key, job.cluster.timeout / BEATS)
        self._store, wait, device = meeting.join(), PATIENCE * meeting.timeout, job.learner.device
        if place.shards > 1:
            groups.inside_replica(place, self._store, device, wait)
        between = groups.between_replicas(place, self._store, device, wait)
        self._exchange = Exchange(between, place.replica, place.replicas, wait)
        self._make_participant()
        return os.getpid()

    def _make_participant(self) -> None:
        place, job = self.place, self._job
        self._fragments_told = 0
        self._summed: dict[str, Tensor] | None = None  # shared state that merges by "sum", as it was merged last
        self.participant = job.participant(
            place.participant,
            place.replica,
            partition_of(job, place.replica),
            (lambda model: groups.shard_model(model, place, job.learner.device)) if place.shards > 1 else None,
            (place.shard, place.shards),
        )
        self.outer = job.outer_step()
        self._rules = self.participant.learner.rules()
        # The anchor is copied only where somebody will look back at it.
        self._anchored = {
            name
            for name, rule in self._rules.items()
            if self.outer.needs_anchor or (rule == "sum" and place.replicas > 1)
        }

    def start(self, path: Path | None, weights: Parcel | None) -> None:
        """Begin anew, or go on from the state kept at `path` and these weights."""
        if path is None or weights is None:
            return
        self.participant.learner.adopt(open_parcel(weights))
        self.participant.load(path)
        state, _ = checkpoint.load(path / "outer")
        self.outer.load_state_dict(state["outer"])
        self._summed = state["before"]

    def receive(self) -> Received | None:
        """Take the next increment; None at the end of the stream, and from all but a replica's first shard."""
        arrival = self.participant.receive()
        if arrival is None or self.place.shard > 0:
            return None
        steps = self.participant.learner.steps_in(arrival.labelled, self.participant.passes())
        fragments = list(self.participant.stream.fragments[self._fragments_told :])
        self._fragments_told += len(fragments)
        return Received(arrival, steps, fragments)

    def learn(self, measured: Mapping[str, Tensor], rounds: int, every: int | None) -> Round:
        """Learn the increment at hand in `rounds` rounds of `every` optimiser steps (None: all there are).

        Every worker takes the outer step itself, on its own shard: it is the same function of the same numbers
        everywhere, so nobody need send the result around.
        """
        learner, done, begun = self.participant.learner, Round(), time.perf_counter()
        sent = self._exchange.bytes_sent
        learner.absorb(measured)
        if self._summed is None:
            state, rules = learner.shared_state()
            self._summed = {name: value.clone() for name, value in state.items() if rules[name] == "sum"}
        for number in range(rounds):
            self._round(partial(self._advance, every, number == 0), done)
        if self.participant.consolidates:
            assert self.participant.increment is not None
            done.seconds_exchanging += self._consolidate(len(self.participant.increment.labelled))
        return self._accounted(done, sent, begun)

    def review(self, rows: Tensor) -> Round:
        """Learn rows of the history once more, in one round."""
        done, begun, sent = Round(), time.perf_counter(), self._exchange.bytes_sent
        self._round(lambda: self.participant.review(rows), done)
        return self._accounted(done, sent, begun)

    def _advance(self, every: int | None, first: bool) -> Update:
        """Take steps; in the first round begin, for a round's anchor is what was agreed on before strategies began."""
        if first:
            self.participant.begin()
        return self.participant.advance(every)

    def _round(self, learn: Callable[[], Update], done: Round) -> None:
        """Learn, exchange, take the outer step."""
        anchor = self._anchor()
        update = learn()
        done.add([update])
        mine = Update({name: local(value) for name, value in update.weights.items()}, update.rows)
        paused = time.perf_counter()
        merged = self._exchange.mean(mine, anchor, self._rules)
        done.seconds_exchanging += time.perf_counter() - paused
        if self._exchange.rows:  # the same number everywhere: momentum alone moves nobody
            self._adopt(self.outer.step(anchor, merged, self._rules))

    def _accounted(self, done: Round, sent: int, begun: float) -> Round:
        """The account of rounds that began at `begun`, when so many bytes had been sent."""
        # The shards of a replica learn the same rows: the first one counts them, and each tells its part of the loss.
        done.passes_rows *= self.place.shard == 0
        done.losses = {name: value / self.place.shards for name, value in done.losses.items()}
        done.bytes_exchanged = self._exchange.bytes_sent - sent
        done.seconds_learning = time.perf_counter() - begun - done.seconds_exchanging
        return done

    def _consolidate(self, rows: int) -> float:
        """Consolidate what this worker's `rows` rows taught, and merge what is shared; returns seconds exchanging."""
        learner = self.participant.learner
        anchor = self._anchor() if learner.remakes else {}
        state = self.participant.consolidate()
        paused = time.perf_counter()
        if self.place.replicas > 1:
            rules = learner.shared_state()[1]
            learner.adopt_shared(self._exchange.shared(state, rows, self._summed or {}, rules))
            if learner.remakes:
                self._adopt(self._exchange.mean(Update(self._weights(), rows), anchor, self._rules))
        self._summed = None
        return time.perf_counter() - paused

    def order(self, orders: Orders) -> None:
        """Do what is ordered."""
        if orders.consolidate:
            self._consolidate(self.participant.unconsolidated or 0)
        self.participant.follow(orders)

    def adopt(self, weights: Parcel) -> None:
        """Stand at these weights."""
        self.participant.learner.adopt(open_parcel(weights))

    def refuse(self) -> None:
        """Let the rows of the increment at hand go."""
        self.participant.refuse()

    def reset(self) -> None:
        """Another participant, as fresh as the first was."""
        self.participant.close()
        self._make_participant()

    def save(self, path: Path) -> None:
        """Keep this worker's state."""
        self.participant.save(path)
        checkpoint.save(path / "outer", {"outer": self.outer.state_dict(), "before": self._summed})

    def hand_over(self) -> Handover | None:
        """What a commit needs, from the very first worker; the shards of its replica gather the weights with it."""
        if self.place.replica > 0:
            return None
        gathered = {name: whole(value) for name, value in self.participant.learner.weights().items()}
        if self.place.shard > 0:
            return None
        return Handover(parcel(gathered), self.participant.stream.history())

    def _anchor(self) -> Weights:
        """The weights as they are, of which those are copied that somebody will look back at."""
        return {name: value.clone() if name in self._anchored else value for name, value in self._weights().items()}

    def _weights(self) -> Weights:
        """This worker's part of all weights, as live views."""
        return {name: local(value) for name, value in self.participant.learner.weights().items()}

    @torch.no_grad()
    def _adopt(self, following: Weights) -> None:
        for name, mine in self._weights().items():
            if mine.data_ptr() != following[name].data_ptr():
                mine.copy_(following[name])
        self.participant.learner.adopted()


def partition_of(job: Job, replica: int) -> Partition | None:
    """The rows of the stream that a replica owns; None: all of them, exactly as in the local engine."""
    replicas, by = job.cluster.replicas, job.cluster.partition
    if replicas == 1:
        return None
    return Blocks(replica, replicas, job.learner.batch_size) if by == "blocks" else ByHash(by, replica, replicas)
