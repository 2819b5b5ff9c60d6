"""One shard of one replica: a `Worker` whose peers are on the cluster.

It knows nothing of Ray; the crew makes an actor of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from cluster import groups
from cluster.exchange import ReplicaExchange
from cluster.heartbeat import Heartbeat
from cluster.place import Place
from cluster.rendezvous import Rendezvous, use_interface_to
from cluster.units import explaining_uncalled
from incr_core.data.timeline import Blocks, ByHash, Partition
from incr_core.errors import EngineError
from incr_core.job import Job
from incr_core.numerics import FlatTensors, settle_arithmetic, whole
from incr_core.rounds import Alone, Arrival, Exchange, Orders, Participant, Round, Worker
from incr_core.update import Weights

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
    """What the first replica hands over for a commit: the whole weights, what modules keep besides, and the stream's
    recent outcomes.
    """

    weights: FlatTensors
    extra_state: dict[str, Any]
    history: Any


class ShardWorker:
    """Hold one shard of one replica."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def build(self, document: Mapping[str, Any], objects: Mapping[str, Callable[..., Any]], meeting: Rendezvous) -> int:
        """Join the others and build the participant; returns the process id.

        objects: what the job names that only Python has.

        Not done at construction, so that an error of the job arrives as itself and not as a dead actor.
        """
        place, job = self.place, Job.from_document(document, objects=objects)
        settle_arithmetic(job.learner.threads)
        try:
            exchange, within = self._meet(job, meeting, PATIENCE * meeting.timeout)
        except (OSError, RuntimeError) as error:  # torch's errors of stores and groups are RuntimeErrors
            raise EngineError(
                f"{place}: expected the driver at {meeting.host}:{meeting.port} and all workers there, got "
                f"{str(error).splitlines()[0]}; let the nodes of the cluster reach one another on all ports"
            ) from error

        def participant() -> Participant:
            return job.participant(
                place.participant,
                place.replica,
                partition_of(job, place.replica),
                (lambda model: groups.shard_model(model, place, job.learner.device)) if place.shards > 1 else None,
                (place.shard, place.shards),
            )

        self.worker = Worker(participant, job.outer_step, exchange, within)
        self._fragments_told = 0
        return os.getpid()

    def _meet(self, job: Job, meeting: Rendezvous, wait: timedelta) -> tuple[Exchange, Exchange]:
        """Join the others at their meeting place; the exchanges between replicas, and within this worker's."""
        place, device = self.place, job.learner.device
        use_interface_to(meeting.host)
        # A connection of its own: waiting for peers on the other must not silence the heart.
        Heartbeat(meeting.join(), place.key, job.cluster.timeout / BEATS)
        self._store = meeting.join()
        within: Exchange = Alone()
        if place.shards > 1:
            groups.inside_replica(place, self._store, device, wait)
            within = ReplicaExchange(dist.group.WORLD, place.shard, place.shards, wait)
        group = groups.between_replicas(place, self._store, device, wait)
        between = Alone() if group is None else ReplicaExchange(group, place.replica, place.replicas, wait)
        return between, within

    def start(self, path: Path | None, weights: FlatTensors | None) -> None:
        """Begin anew, or go on from the state kept at `path` and these weights."""
        self._fragments_told = 0
        self.worker.start(path, None if weights is None else weights.tensors(copy=False))

    def receive(self) -> Received | None:
        """Take the next increment; None at the end of the stream, and from all but a replica's first shard."""
        with explaining_uncalled(self.worker.participant.learner.model):
            arrival = self.worker.receive()
        if arrival is None or self.place.shard > 0:
            return None
        participant = self.worker.participant
        steps = participant.learner.steps_in(arrival.labelled, participant.passes())
        fragments = list(participant.stream.fragments[self._fragments_told :])
        self._fragments_told += len(fragments)
        return Received(arrival, steps, fragments)

    def learn(self, measured: Weights, rounds: int, every: int | None) -> Round:
        """Learn the increment at hand in `rounds` rounds of `every` optimiser steps (None: all there are)."""
        with explaining_uncalled(self.worker.participant.learner.model):
            return self.worker.learn(measured, rounds, every)

    def review(self, rows: Tensor) -> Round:
        """Learn rows of the history once more, in one round."""
        with explaining_uncalled(self.worker.participant.learner.model):
            return self.worker.review(rows)

    def skip(self) -> None:
        """Let the rows of the increment at hand go."""
        self.worker.skip()

    def order(self, orders: Orders, weights: FlatTensors | None) -> None:
        """Do what is ordered, then stand at these weights."""
        self.worker.order(orders, None if weights is None else weights.tensors(copy=False))

    def save(self, path: Path) -> None:
        """Keep this worker's state."""
        self.worker.save(path)

    def hand_over(self) -> Handover | None:
        """What a commit needs, from the very first worker; the shards of its replica gather the weights with it."""
        if self.place.replica > 0:
            return None
        participant = self.worker.participant
        gathered = {name: whole(value) for name, value in participant.learner.weights().items()}
        if self.place.shard > 0:
            return None
        return Handover(FlatTensors.of(gathered), participant.learner.extra.state_dict(), participant.stream.history())


def partition_of(job: Job, replica: int) -> Partition | None:
    """The rows of the stream that a replica owns; None: all of them, exactly as in the local engine."""
    replicas, by = job.cluster.replicas, job.cluster.partition
    if replicas == 1:
        return None
    return Blocks(replica, replicas, job.learner.batch_size) if by == "blocks" else ByHash(by, replica, replicas)
