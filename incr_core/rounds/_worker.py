"""A worker: a participant and its part in every exchange. Alone, it is the engine of one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from incr_core.numerics import local
from incr_core.rounds._actions import Orders
from incr_core.rounds._outer import Outer
from incr_core.rounds._participant import Arrival, Participant
from incr_core.rounds._round import Consolidated, Round, consolidate, take_round
from incr_core.update import Update, Weights, mean

__all__ = ["Alone", "Exchange", "Worker"]


class Exchange(Protocol):
    """How a worker merges named tensors with its peers, which all call the same method at the same time.

    size: how many workers merge, this one among them. bytes_sent: by this worker, so far.
    """

    size: int
    bytes_sent: int

    def mean(self, update: Update, anchor: Weights, rules: Mapping[str, str]) -> tuple[Weights, int]:
        """What `update.mean` makes of everybody's update, in its tensors or others; how many rows all learned."""

    def shared(self, state: Weights, rows: int, anchor: Weights, rules: Mapping[str, str]) -> Weights:
        """What `update.merge_shared` makes of everybody's shared strategy state, in its tensors or others."""


class Alone:
    """The exchange of a worker without peers.

    >>> Alone().mean(Update({"w": torch.ones(1)}, rows=3), {}, {})
    ({'w': tensor([1.])}, 3)
    """

    size = 1
    bytes_sent = 0

    def mean(self, update: Update, anchor: Weights, rules: Mapping[str, str]) -> tuple[Weights, int]:
        """Its own update."""
        return mean([update], anchor, rules), update.rows

    def shared(self, state: Weights, rows: int, anchor: Weights, rules: Mapping[str, str]) -> Weights:
        """Its own state."""
        return state


class Worker:
    """A participant and its part in every exchange; the `Cohort` of it and its peers, seen from here.

    Every worker takes the outer step itself, on its own shard: it is the same function of the same numbers everywhere,
    so nobody need send the result around.

    make: makes the participant, and makes it anew where a run returns to a commit. outer: makes the outer step.
    exchange: with the same shard of the other replicas; within: with the other shards of its own.
    """

    def __init__(
        self,
        make: Callable[[], Participant],
        outer: Callable[[], Outer],
        exchange: Exchange,
        within: Exchange | None = None,
    ) -> None:
        self._make, self._make_outer = make, outer
        self.exchange = exchange
        self._within = Alone() if within is None else within
        self._seconds_exchanging = 0.0
        self._prepare()

    def _prepare(self) -> None:
        self.participant = self._make()
        self.outer = self._make_outer()
        self._fresh = True
        self._summed: Weights | None = None  # shared state that merges by "sum", as it was merged last
        self.rules = self.participant.learner.rules()
        # The anchor is copied only where somebody will look back at it.
        self._anchored = {
            name
            for name, rule in self.rules.items()
            if self.outer.needs_anchor or (rule == "sum" and self.exchange.size * self._within.size > 1)
        }

    @property
    def remakes(self) -> bool:
        """Whether strategies change weights when they consolidate, and there are peers to merge them with."""
        return self.participant.learner.remakes and self.exchange.size > 1

    def start(self, path: Path | None, weights: Weights | None) -> None:
        """Begin anew, or go on from the state kept at `path` and these weights."""
        if not self._fresh:
            self.participant.close()
            self._prepare()
        if path is None or weights is None:
            return
        self._fresh = False
        self.participant.learner.adopt(weights)
        state, _ = self.participant.load(path)
        self.outer.load_state_dict(state["outer"])
        self._summed = state["summed"]

    def receive(self) -> Arrival | None:
        """Take the next increment; None at the end of the stream."""
        self._fresh = False
        return self.participant.receive()

    def learn(self, measured: Weights, rounds: int = 1, every: int | None = None) -> Round:
        """Learn the increment at hand in `rounds` rounds of `every` optimiser steps (None: all there are).

        measured: what all arrivals add to running statistics.
        """
        begun = self._begin_account()
        learner, done = self.participant.learner, Round()
        learner.absorb(measured)
        if self._summed is None:
            state, rules = learner.shared_state()
            self._summed = {name: value.clone() for name, value in state.items() if rules[name] == "sum"}
        for number in range(rounds):
            take_round(self, partial(self._advance, every, first=number == 0), done)
        if self.participant.consolidates:
            consolidate(self)
        return self._accounted(done, begun)

    def review(self, rows: Tensor) -> Round:
        """Learn rows of the history, by their ids (n,), once more, in one round."""
        begun, done = self._begin_account(), Round()
        take_round(self, lambda: [self._local(self.participant.review(rows))], done)
        return self._accounted(done, begun)

    def skip(self) -> None:
        """Let the rows of the increment at hand go."""
        self.participant.skip()

    def order(self, orders: Orders, weights: Weights | None = None) -> None:
        """Do what is ordered, then stand at these weights."""
        if orders.consolidate:
            consolidate(self)
        self.participant.follow(orders)
        if weights is not None:
            self.participant.learner.adopt(weights)

    def save(self, path: Path) -> None:
        """Keep the state of the participant and of its exchanges."""
        self.participant.save(path, {"outer": self.outer.state_dict(), "summed": self._summed})

    # -- the cohort ----------------------------------------------------------------------------------------------

    def anchor(self) -> Weights:
        """The weights as they are, of which those are copied that somebody will look back at."""
        return {name: value.clone() if name in self._anchored else value for name, value in self._weights().items()}

    def merge(self, updates: Sequence[Update], anchor: Weights) -> tuple[Weights, int]:
        """The mean of this worker's update and its peers'."""
        with_peers = time.perf_counter()
        if self._within.size > 1 and self.participant.learner.divides and updates[0].rows:
            self._merge_buffers(anchor)
        merged = self.exchange.mean(updates[0], anchor, self.rules)
        self._seconds_exchanging += time.perf_counter() - with_peers
        return merged

    @torch.no_grad()
    def _merge_buffers(self, anchor: Weights) -> None:
        """Merge what the forwards of this replica's shards, each over its part of the rows, made of the buffers."""
        weights = self.participant.learner.weights()
        buffers = {name: value for name, value in weights.items() if local(value) is value}
        if buffers:
            merged, _ = self._within.mean(Update(buffers, rows=1), anchor, self.rules)
            for name, value in merged.items():
                buffers[name].copy_(value)

    @torch.no_grad()
    def adopt(self, weights: Weights) -> None:
        """Stand at these weights, this worker's part of all."""
        for name, mine in self._weights().items():
            if mine.data_ptr() != weights[name].data_ptr():
                mine.copy_(weights[name])
        self.participant.learner.adopted()

    def consolidate(self) -> Consolidated:
        """Let the strategies consolidate what this worker's rows taught."""
        rows = self.participant.unconsolidated
        state = self.participant.consolidate()
        return Consolidated([rows], [state], [Update(self._weights, rows)])

    def merge_shared(self, made: Consolidated) -> None:
        """Merge what strategies share with the peers."""
        if self.exchange.size > 1 and made.states[0]:
            with_peers = time.perf_counter()
            learner = self.participant.learner
            rules = learner.shared_state()[1]
            merged = self.exchange.shared(dict(made.states[0]), made.rows[0], self._summed or {}, rules)
            self._seconds_exchanging += time.perf_counter() - with_peers
            learner.adopt_shared(merged)
        self._summed = None

    # -- within a round ------------------------------------------------------------------------------------------

    def _advance(self, steps: int | None, *, first: bool) -> list[Update]:
        """Take steps; in the first round begin, for a round's anchor is what was agreed on before strategies began."""
        if first:
            self.participant.begin()
        return [self._local(self.participant.advance(steps))]

    def _local(self, update: Update) -> Update:
        return Update({name: local(value) for name, value in update.weights.items()}, update.rows, update.losses)

    def _weights(self) -> Weights:
        """This worker's part of all weights, as live views."""
        return {name: local(value) for name, value in self.participant.learner.weights().items()}

    def _begin_account(self) -> tuple[float, int]:
        self._seconds_exchanging = 0.0
        return time.perf_counter(), self.exchange.bytes_sent

    def _accounted(self, done: Round, begun: tuple[float, int]) -> Round:
        # The shards of a replica learn the same rows: the first one counts them, and each tells its part of the loss.
        rank, shards = self.participant.learner.shard
        if shards > 1:
            done.passes_rows *= rank == 0
            done.losses = {name: value / shards for name, value in done.losses.items()}
        done.bytes_exchanged = self.exchange.bytes_sent - begun[1]
        done.seconds_exchanging = self._seconds_exchanging
        done.seconds_learning = time.perf_counter() - begun[0] - done.seconds_exchanging
        return done
