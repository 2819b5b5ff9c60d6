"""A participant: one learner and its part of the stream, wherever it lives.

Every engine drives participants through the same few calls, in the same order, for every increment:

    receive      take the next increment: predict the rows that arrive, score the rows whose labels became known
    begin        lay out the rows to learn
    advance      take optimiser steps; the engine exchanges weights between calls
    consolidate  let the strategies keep what was learned
    review       learn rows of the history once more
    save         at a commit, keep everything that learning on depends on

An increment that must not be learned is skipped instead of begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from incr_core.batch import Batch, cat
from incr_core.data.encoding import BadFile, BadRow
from incr_core.data.timeline import Increment, Learned, Stream, Tick
from incr_core.learner import EarlyStopping, Learner
from incr_core.metrics import Statistics
from incr_core.rounds._consolidation_window import Span
from incr_core.rounds._orders import Orders
from incr_core.rounds._pending import Pending
from incr_core.rounds._probe import Probe
from incr_core.storage import checkpoint
from incr_core.update import Update, Weights

__all__ = ["Arrival", "Participant"]


@dataclass(slots=True)
class Arrival:
    """What a participant tells about an increment before it learns.

    rows: ids of the rows to learn, (n,) int64; these and counts leave the participant, never the rows themselves.
    statistics: additive, of the rows labelled now against what was predicted when they arrived.
    measured: what these rows add to running statistics of the model and the objective.
    probed: for each `Probe`, sums over rows scored or arriving now.
    tasks: of the rows to learn, if somebody waits for new ones.
    """

    tick: Tick
    arriving: int
    rows: Tensor
    predicted: int
    scored: int
    statistics: Statistics
    measured: Weights
    bad: Sequence[BadRow] = field(default_factory=list)
    seconds: float = 0.0
    probed: list[Tensor] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    bad_files: Sequence[BadFile] = field(default_factory=list)
    duplicates: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    @property
    def labelled(self) -> int:
        """How many rows there are to learn."""
        return len(self.rows)


@dataclass(slots=True)
class AtHand:
    """The increment that a participant is at: the rows it has to learn, and whether it has begun to."""

    tick: Tick
    labelled: Batch
    begun: bool = False


class Participant:
    """One learner and its part of the stream.

    name: unique in the run; its state is kept under it.
    stream, learner: what it owns.
    warm_passes: passes over the warm start, where it is more than the learner's `epochs`.
    frozen: learn nothing after the warm start; a baseline.
    probes: statistics to report about rows before they are learned.
    stopping: when to stop passing over an increment's rows; by default after all passes.
    tells_tasks: whether to tell which tasks the rows to learn are of.
    keeps: None where strategies consolidate after every increment. Else they do when told to, on the rows learned since
        they last did, of which at least the last `keeps` are kept.
    """

    def __init__(
        self,
        name: str,
        stream: Stream,
        learner: Learner,
        *,
        warm_passes: int | None = None,
        frozen: bool = False,
        probes: Sequence[Probe] = (),
        keeps: int | None = None,
        tells_tasks: bool = False,
        stopping: EarlyStopping | None = None,
    ) -> None:
        self.name = name
        self.stream = stream
        self.learner = learner
        self.warm_passes = warm_passes
        self.frozen = frozen
        self.probes = tuple(probes)
        self.tells_tasks = tells_tasks
        self.stopping = stopping
        self._passes: tuple[Batch, Batch, int] | None = None  # to pass over, held back, and how often at most
        self.consolidates = learner.consolidates and keeps is None
        self._span = Span(keeps) if learner.spans and keeps is not None else None
        self.increment: AtHand | None = None
        self._increments: Iterator[Increment] = iter(())
        self._cursor: dict[str, Any] | None = None
        self._learned: Learned | None = None  # keys, where rows have them
        self._keys: dict[str, Any] | None = None  # the same, as they were loaded
        self._pending = Pending()
        self._started = False

    @property
    def cursor(self) -> dict[str, Any] | None:
        """Its place in the stream, JSON: behind the last increment received; None before the first."""
        return self._cursor

    def begin_at(self, cursor: dict[str, Any] | None) -> None:
        """Begin at another participant's place in the stream, before anything was received."""
        assert not self._started, "a participant begins once"
        self._cursor = cursor

    def receive(self) -> Arrival | None:
        """Take the next increment, predict and score; None when the stream has ended.

        Predictions of an objective that is not `ready` are none: of a stream of numbers without a warm start, the first
        increment's.
        Rows that an engine has let wait since the last increment come first among those to learn, and once more, alone,
        after the stream's end: every row is learned.
        """
        if not self._started:
            self._increments = self.stream.increments(self._cursor, self._keys)
            self._started = True
        increment = next(self._increments, None)
        waiting = self._waiting()
        if increment is None:
            return None if waiting is None else self._remaining(waiting)
        begun = time.perf_counter()
        self._cursor, self._learned = increment.cursor, increment.learned
        arriving, labelled = increment.arriving, increment.labelled
        if len(arriving) and not increment.tick.warm and self.learner.objective.ready:
            assert arriving.rows is not None
            self._pending.add(arriving.rows, self.learner.predict(arriving.inputs))
        # Whoever predicted a row scores it, whoever learns it.
        statistics, scored, probed = self._score(increment.revealed)
        if self.probes and not increment.tick.warm:
            first = [probe.of_arriving(arriving.inputs) for probe in self.probes]
            probed = [torch.cat([one, other]) for one, other in zip(first, probed, strict=True)]
        learns = labelled if increment.tick.warm or not self.frozen else labelled.slice(0, 0)
        if waiting is not None:
            learns = cat([waiting, learns])
        self.increment = AtHand(increment.tick, learns)
        assert learns.rows is not None
        return Arrival(
            increment.tick,
            len(arriving),
            learns.rows,
            0 if increment.tick.warm else len(arriving),
            scored,
            statistics,
            self.learner.observe(learns) if len(learns) else {},
            increment.bad,
            time.perf_counter() - begun,
            probed,
            torch.unique(learns.task).tolist() if self.tells_tasks and learns.task is not None else [],
            increment.bad_files,
            increment.duplicates,
        )

    def _waiting(self) -> Batch | None:
        """Rows at hand that nobody has begun to learn."""
        at_hand = self.increment
        return None if at_hand is None or at_hand.begun or not len(at_hand.labelled) else at_hand.labelled

    def _remaining(self, waiting: Batch) -> Arrival:
        """An increment after the last, of the rows that still wait."""
        assert self.increment is not None
        assert waiting.rows is not None
        tick = Tick(self.increment.tick.number + 1, "waiting rows")
        self.increment = AtHand(tick, waiting)
        return Arrival(tick, 0, waiting.rows, 0, 0, {}, self.learner.observe(waiting))

    def _score(self, revealed: Batch) -> tuple[Statistics, int, list[Tensor]]:
        assert revealed.rows is not None
        objective = self.learner.objective
        place, predictions = self._pending.take(revealed.rows)
        targets = revealed.targets[place]
        probed = [probe.of_scored(objective, predictions, targets) for probe in self.probes]
        if len(place) == 0:
            return {}, 0, probed
        weights = None if revealed.weights is None else revealed.weights[place]
        return objective.measure(predictions, targets, weights), len(place), probed

    def passes(self) -> int:
        """Passes over the increment at hand."""
        increment = self.increment
        assert increment is not None
        warm = increment.tick.warm and self.warm_passes is not None
        return self.warm_passes if warm and self.warm_passes else self.learner.epochs

    def begin(self, passes: int | None = None) -> None:
        """Lay out the rows of the increment at hand for `passes` passes."""
        assert self.increment is not None, "receive an increment before learning it"
        again, self.increment.begun = self.increment.begun, True
        labelled, passes = self._laid_out(self.passes() if passes is None else passes)
        if self._span is None:
            self.learner.begin(labelled, passes, increment=self.increment.tick.number)
        else:
            self.learner.begin(labelled, passes, increment=self._span.number, opens=self._span.opens)
            if not again:
                self._span.add(self.increment.labelled)

    def _laid_out(self, passes: int) -> tuple[Batch, int]:
        """The rows to lay out, and how often: one pass, where it will be seen how many more it takes."""
        assert self.increment is not None
        labelled, self._passes = self.increment.labelled, None
        if self.stopping is not None and self.stopping.applies(len(labelled), passes):
            kept, held = self.stopping.split(labelled, seed=self.increment.tick.number)
            self._passes = kept, held, passes
            return kept, 1
        return labelled, passes

    def skip(self) -> None:
        """Let the rows of the increment at hand go: they are neither learned nor offered again."""
        assert self.increment is not None, "receive an increment before skipping it"
        self.increment.labelled, self.increment.begun = self.increment.labelled.slice(0, 0), True

    def advance(self, steps: int | None = None) -> Update:
        """Take the next `steps` optimiser steps, or all that are left."""
        if self._passes is not None and self.stopping is not None:
            assert steps is None, "an increment that may be stopped is learned in one go"
            passes, self._passes = self._passes, None
            return self.stopping.learn(self.learner, *passes)
        return self.learner.advance(steps)

    def learn(self, anchor: Mapping[str, Tensor], first: bool = True) -> Update:
        """One round over the increment at hand, the first or another: adopt the anchor, learn, contribute."""
        self.learner.adopt(anchor)
        assert self.increment is not None
        if first:
            self.begin()
        else:
            self.learner.again(*self._laid_out(self.passes()))
        return self.advance()

    def review(self, rows: Tensor) -> Update:
        """Learn rows of its history once more, by their ids (n,); none where their files are gone."""
        assert self._cursor is not None, "there is no history before the first increment"
        found = self.stream.read_back(rows, self._cursor) if len(rows) else None
        if found is None:
            return Update(self.learner.weights(), 0)
        # What strategies share was merged already, and counts each row once.
        shared = {name: value.clone() for name, value in self.learner.shared_state()[0].items()}
        update = self.learner.rehearse(found)
        self.learner.adopt_shared(shared)
        return update

    def consolidate(self, anchor: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Let the strategies consolidate at the round's result; returns what they share."""
        if anchor is not None:
            self.learner.adopt(anchor)
        assert self.increment is not None
        if self._span is None:
            self.learner.end(self.increment.labelled)
        elif (rows := self._span.close()) is not None:
            self.learner.end(rows)
        return self.learner.shared_state()[0]

    @property
    def spans(self) -> bool:
        """Whether strategies consolidate when told to, over several increments, and not after each."""
        return self._span is not None

    @property
    def unconsolidated(self) -> int:
        """How many rows the strategies would consolidate now."""
        assert self.increment is not None
        return len(self.increment.labelled) if self._span is None else self._span.rows

    def follow(self, orders: Orders) -> None:
        """Do what is ordered, but for consolidating: that takes an exchange."""
        if orders.rate is not None:
            self.learner.descent.rate = orders.rate
        if orders.restart and self.learner.descent.schedule is not None:
            self.learner.descent.schedule.restart()
        for memory in self.learner.memories():
            if orders.flush:
                memory.clear()
            if orders.enlarge != 1.0:
                memory.enlarge(orders.enlarge)

    def save(
        self, path: Path, exchanged: Mapping[str, Any] | None = None, *, whole: bool = False, **manifest: Any
    ) -> None:
        """Keep everything that learning on from here depends on, besides the weights.

        exchanged: what whoever exchanges its updates keeps beside it.

        At a commit that is little of the increment at hand: rows already learned are not needed again. In the middle of
        an increment, `whole` keeps them too.
        """
        at_hand = self.increment if whole or self._waiting() is not None else None
        state = {
            "learner": self.learner.state_dict(),
            "pending": self._pending.state_dict(),
            "cursor": self._cursor,
            "keys": self._keys if self._learned is None else self._learned.state_dict(),
            "increment": None if at_hand is None else asdict(at_hand),
            "span": None if self._span is None else self._span.state_dict(),
            "exchanged": dict(exchanged or {}),
        }
        checkpoint.save(path, state, **manifest)

    def load(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Take back what `save` kept; returns what was exchanged, and the manifest."""
        state, manifest = checkpoint.load(path)
        self.learner.load_state_dict(state["learner"])
        self._pending.load_state_dict(state["pending"])
        self._cursor, self._keys, self._learned = state["cursor"], state.get("keys"), None
        if self._span is not None:
            self._span.load_state_dict(state["span"])
        at_hand = state["increment"]
        self.increment = None
        if at_hand is not None:
            self.increment = AtHand(Tick(**at_hand["tick"]), Batch(**at_hand["labelled"]), at_hand["begun"])
        self.close()
        self._increments, self._started = iter(()), False
        return state["exchanged"], manifest

    def close(self) -> None:
        """Stop reading ahead."""
        stop: Callable[[], None] | None = getattr(self._increments, "close", None)
        if stop is not None:
            stop()
