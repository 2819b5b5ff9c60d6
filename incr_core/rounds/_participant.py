"""A participant: one learner and its part of the stream, on any engine.

Every engine makes the same calls on its participants, in the same order, for every increment:

    receive      take the next increment: predict the rows that arrive, score those whose labels became known
    begin        prepare the rows to learn
    advance      take optimiser steps; the engine exchanges weights between calls
    consolidate  let the strategies consolidate
    review       learn rows of the history once more
    judge        before a commit, compare the new version with the champion on past rows
    compare      and on the newest rows, which are held back until the next increment
    save         at a commit, save all state that further learning depends on

An increment that must not be learned is skipped instead of begun.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from incr_core.batch import Batch, Limit, cat
from incr_core.data.timeline import Blocks, Increment, Stream, Tick
from incr_core.errors import ArgumentError
from incr_core.learner import EarlyStopping, Learner
from incr_core.rounds._arrival import Arrival
from incr_core.rounds._at_hand import AtHand
from incr_core.rounds._between_increments import BetweenIncrements
from incr_core.rounds._personal import check_not_shared, personal_names
from incr_core.rounds._prequential import Prequential
from incr_core.rounds._probe import Probe
from incr_core.rounds._reference import Reference
from incr_core.rounds._sampling import Sampling, ids_of
from incr_core.rounds._unconsolidated_rows import UnconsolidatedRows
from incr_core.rounds._untaken_rows import taken
from incr_core.update import Update, Weights

__all__ = ["WAITING", "Participant"]

WAITING = "waiting rows"
"""Name of an additional increment after the end of the stream, of rows that were still waiting."""

KEPT_ROWS = 100_000
"""Maximum number of rows, of several increments since a commit, that are kept in memory for repeated delivery."""


class Participant(BetweenIncrements):
    """One learner and its part of the stream.

    Args:
        name: Unique name in the run; the state is stored under it.
        stream: Its part of the stream.
        learner: Its learner.
        warm_passes: Passes over the warm start, if more than the learner's `epochs`.
        adapts: Whether the passes over other increments depend on the number of rows known before (`passes_after`).
        frozen: Learn nothing after the warm start, as a baseline.
        probes: Statistics to report about rows before they are learned.
        keeps: None if strategies consolidate after every increment. Otherwise they consolidate when ordered, on the
            rows learned since the last time, of which at least the last `keeps` are kept.
        reports_tasks: Whether to report the tasks of the rows to learn.
        stopping: Early stopping of passes over an increment's rows; None takes all passes.
        personal: Name patterns of weights that stay with this participant: they are neither set by an anchor nor sent
            in an update.
        reference: Past rows on which versions are judged; None without a gate.
        holdout: Share or number of an increment's last rows that are held back to judge versions, and learned with the
            next increment.
        rows_per_hour: Maximum number of rows learned of an hour of the stream. Replicas that share one stream share the
            maximum.
    """

    def __init__(
        self,
        name: str,
        stream: Stream,
        learner: Learner,
        *,
        warm_passes: int | None = None,
        adapts: bool = False,
        frozen: bool = False,
        probes: Sequence[Probe] = (),
        keeps: int | None = None,
        reports_tasks: bool = False,
        stopping: EarlyStopping | None = None,
        personal: Sequence[str] = (),
        reference: Reference | None = None,
        holdout: float = 0,
        rows_per_hour: float | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.stream = stream
        self.learner = learner
        self.warm_passes = warm_passes
        self.adapts = adapts
        self.frozen = frozen
        self.reports_tasks = reports_tasks
        self.stopping = stopping
        self.personal = frozenset(personal_names(learner.rules(), personal))
        check_not_shared(learner.shared_state()[0], self.personal)
        if self.personal and learner.answers_itself:
            raise ArgumentError(
                "personal: expected none beside a strategy with personal models, got both; remove one of them"
            )
        self.reference, self.holdout = reference, holdout
        self.sampling = Sampling(rows_per_hour, stream.partition.count if isinstance(stream.partition, Blocks) else 1)
        self.increment: AtHand | None = None
        self.consolidates = learner.consolidates and keeps is None
        self._unconsolidated = UnconsolidatedRows(keeps) if learner.spans and keeps is not None else None
        self._evaluation = Prequential(learner, probes, () if stream.slices is None else stream.slices.names)
        self._passes: tuple[Batch, Batch, int] | None = None  # rows to pass over, held back, and how often at most

    @property
    def cursor(self) -> dict[str, Any] | None:
        """Stream position just after the last received increment (JSON); None before the first."""
        return self._cursor

    @property
    def coming(self) -> Tick | None:
        """The tick of the next increment, which is read for this; None at the end."""
        if self._ahead is None:
            self._ahead = self._next()
        return None if self._ahead is None else self._ahead.tick

    def ahead(self) -> tuple[Tensor, int] | None:
        """Return the row ids that the next increment will offer to learn, and the passes over them.

        The increment is read for this. The result is None if there is none.
        """
        waiting = self.increment.left.row_ids if self.increment is not None and self.increment.waiting else None
        tick = self.coming
        if tick is None or self._ahead is None:
            return None if waiting is None else (waiting, self.passes())
        rows = self._ahead.labelled.row_ids
        assert rows is not None
        rows = rows if tick.warm or not self.frozen else rows[:0]
        rows = rows[self.sampling.kept(rows, tick, self._cursor)]
        rows = rows if waiting is None else torch.cat([waiting, rows])
        return rows[: len(rows) - self._held_back(tick, len(rows))], self._passes_of(tick)

    def _held_back(self, tick: Tick, rows: int) -> int:
        """Return the number of rows held back of an increment: at most half of its rows to learn."""
        if tick.warm or self.frozen:
            return 0
        wanted = int(self.holdout * rows) if self.holdout < 1 else int(self.holdout)
        return min(wanted, rows // 2)

    def receive(self, number: int | None = None) -> Arrival | None:
        """Take the next increment, predict and score; return None at the end of the stream.

        Rows that an engine has left waiting since the last increment come first among those to learn. At the end of the
        stream they form a further increment, so that every row is learned.

        Args:
            number: Number of the increment among all participants, if each participant has its own clock.
        """
        increment, last = self._ahead or self._next(), self.increment
        self._ahead = None
        waiting = last.left if last is not None and last.waiting else None
        if increment is None:
            if waiting is None and last is not None and self.holdout:
                # Others may have rows left, and this one takes part in their increment.
                self.increment = AtHand(Tick(last.tick.number + 1, WAITING), last.labelled.slice(0, 0))
            return None if waiting is None else self._remaining(waiting, number)
        if number is not None:
            increment.tick = replace(increment.tick, number=number)
        begun = time.perf_counter()
        before = self._cursor
        self._cursor, self._learned = increment.cursor, increment.learned
        with taken(self.learner, self.stream, increment.arriving):
            scores = self._evaluation.evaluate(increment)
        warm, labelled = increment.tick.warm, increment.labelled.without_slices()
        learns = labelled if warm or not self.frozen else labelled.slice(0, 0)
        kept, dropped = self.sampling.kept(ids_of(learns), increment.tick, before), ids_of(learns)[:0]
        if len(kept) < len(learns):
            dropped = ids_of(learns.without(ids_of(learns)[kept]))
            learns = learns.take(kept)
        if waiting is not None:  # rows of earlier increments, which have been within the limits
            learns = cat([waiting, learns])
        held = None
        if count := self._held_back(increment.tick, len(learns)):
            learns, held = learns.slice(0, len(learns) - count), learns.slice(len(learns) - count, len(learns))
        self.increment = AtHand(increment.tick, learns, passes=self._passes_of(increment.tick), held=held)
        assert learns.row_ids is not None
        return Arrival(
            increment.tick,
            learns.row_ids,
            arriving=len(increment.arriving),
            predicted=0 if warm else len(increment.arriving),
            scored=scores.scored,
            statistics=scores.statistics,
            observed=self._observed(learns) if len(learns) else {},
            probed=scores.probed,
            tasks=torch.unique(learns.task).tolist() if self.reports_tasks and learns.task is not None else [],
            duplicates=increment.duplicates,
            bad=increment.bad,
            bad_files=increment.bad_files,
            seconds=time.perf_counter() - begun,
            sliced=scores.sliced,
            dropped=dropped,
        )

    def _next(self) -> Increment | None:
        if self._again:
            increment: Increment | None = self._again.popleft()
        else:
            if self._increments is None:
                self._increments = self.stream.increments(self._cursor, self._keys, found=self._takes_found)
            increment = next(self._increments, None)
        if self.keeps_increments and increment is not None and self._since is not None:
            self._since.append(increment)
            self._rows_since += len(increment.arriving) + len(increment.labelled)
            if self._rows_since > KEPT_ROWS and len(self._since) > 1:
                self._since = None
        return increment

    def _remaining(self, waiting: Batch, number: int | None) -> Arrival:
        """Return an increment of the rows that still wait, after the last one."""
        assert self.increment is not None
        assert waiting.row_ids is not None
        number = self.increment.tick.number + 1 if number is None else number
        tick = Tick(number, WAITING)
        self.increment = AtHand(tick, waiting, passes=self._passes_of(tick))
        return Arrival(self.increment.tick, waiting.row_ids, observed=self._observed(waiting))

    def _observed(self, rows: Batch) -> Weights:
        """Return the additions of the offered rows to running statistics."""
        return self.learner.observe(rows)

    def passes(self) -> int:
        """Return the passes over the current increment."""
        assert self.increment is not None
        return self.increment.passes

    def begin(self, passes: int | None = None) -> None:
        """Prepare the rows of the current increment for `passes` passes."""
        assert self.increment is not None, "receive an increment before learning it"
        again, self.increment.begun = self.increment.begun, True
        if self.reference is not None and not again:
            self.reference.add(self.increment.labelled)
        self.learner.note_ids(self.increment.labelled)
        labelled, passes = self._prepared(self.passes() if passes is None else passes)
        since = self._unconsolidated
        if since is None:
            self.learner.begin(labelled, passes, increment=self.increment.tick.number)
        else:
            self.learner.begin(labelled, passes, increment=since.number, opens=since.opens)
            if not again:
                since.add(self.increment.labelled)

    def _prepared(self, passes: int) -> tuple[Batch, int]:
        """Return the rows to learn, and the passes over them: one at first if early stopping decides on the others."""
        assert self.increment is not None
        labelled, self._passes = self.increment.labelled, None
        if self.stopping is not None and self.stopping.applies(len(labelled), passes):
            kept, held = self.stopping.split(labelled, seed=self.increment.tick.number)
            self._passes = kept, held, passes
            return kept, 1
        return labelled, passes

    def skip(self) -> None:
        """Drop the rows of the current increment: they are neither learned nor offered again."""
        assert self.increment is not None, "receive an increment before skipping it"
        self.increment.labelled, self.increment.begun = self.increment.labelled.slice(0, 0), True

    def advance(self, steps: Limit = None) -> Update:
        """Take the next `steps` optimiser steps, or all that remain."""
        before = self.learner.context.step
        assert self.increment is not None, "receive an increment before learning it"
        with taken(self.learner, self.stream, self.increment.labelled):
            update = self._advanced(steps)
        update.steps = self.learner.context.step - before
        return update

    def _advanced(self, steps: Limit) -> Update:
        if self._passes is not None and self.stopping is not None:
            assert steps is None, "an increment that may be stopped is learned in one go"
            passes, self._passes = self._passes, None
            return self.stopping.learn(self.learner, *passes)
        return self.learner.advance(steps)

    def learn(self, anchor: Mapping[str, Tensor], first: bool = True) -> Update:
        """Learn one round over the current increment, the first or a later one: adopt the anchor, learn, contribute."""
        self.adopt(anchor)
        self.prepare(first)
        update = self.advance()
        self.learner.share_ids(anchor)
        return update

    def prepare(self, first: bool) -> None:
        """Prepare a round over the current increment, the first or a later one."""
        if first:
            self.begin()
        else:
            self.learner.again(*self._prepared(self.passes()))
