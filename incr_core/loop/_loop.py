"""The loop: increments in, versions out, with everything a run must remember in between."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from incr_core import metrics
from incr_core._util import Stopped, json_text, set_by_signals
from incr_core.data.encoding import whole_table
from incr_core.drift import Alarms
from incr_core.engines import Commit, Engine
from incr_core.errors import DivergedError, JobError, StreamError
from incr_core.job import Job
from incr_core.loop._divergence import Divergence, fault_of
from incr_core.loop._events import Event
from incr_core.loop._pending_commit import Uncommitted, metrics_row
from incr_core.metrics import Statistics
from incr_core.objectives import Objective
from incr_core.registry import RunDirectory, erased, ids_of, loop_state
from incr_core.rounds import Arrival, Orders, Review, Round
from incr_core.storage import checkpoint, model_sha256, write_atomically
from incr_core.update import Weights

__all__ = ["Loop", "Progress", "Totals"]


@dataclass(slots=True)
class Totals:
    """What a run has done so far; it survives commits and resumes.

    events: kind -> how many. diverged_in_a_row: of the last increments with rows to learn, how many diverged.
    """

    increments: int = 0
    rows_learned: int = 0
    rows_predicted: int = 0
    rows_quarantined: int = 0
    rows_duplicate: int = 0
    files_quarantined: int = 0
    bytes_exchanged: int = 0
    seconds: float = 0.0
    statistics: Statistics = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    diverged_in_a_row: int = 0


@dataclass(slots=True)
class Progress:
    """What a progress bar may show after an increment."""

    increment: str
    rows: int
    rows_per_second: float
    metric: str
    value: float


class Loop:
    """Drive an engine over the stream, and commit what it learns to a run directory.

    job, engine, directory: the run. observe: called after every increment.

    `run` goes on from the last commit. It returns True when the stream ended, False when a signal asked it to stop.
    """

    def __init__(
        self, job: Job, engine: Engine, directory: RunDirectory, observe: Callable[[Progress], None] | None = None
    ) -> None:
        self.job = job
        self.engine = engine
        self.directory = directory
        self.observe = observe
        self.objective: Objective = job.objective()
        self.totals = Totals()
        self.version = directory.latest()
        self._uncommitted = Uncommitted()
        self._divergence = Divergence()
        self._alarms, self._review = job.alarms(), job.reviews()
        self._last: Arrival | None = None
        self._stop = threading.Event()
        self._shape: dict[str, Any] | None = None

    def run(self) -> bool:
        """Learn until the stream ends, or until asked to stop."""
        self._resume()
        self._begun = time.perf_counter() - self.totals.seconds
        with set_by_signals(self._stop):
            while not self._stop.is_set():
                try:
                    arrivals = self.engine.receive()
                except Stopped:
                    break
                if arrivals:
                    self._increment(arrivals)
                elif self._ended():
                    break
            if self._stop.is_set() and (self._uncommitted.metrics or self.version is None):
                self._stopped()
        return not self._stop.is_set()

    def _increment(self, arrivals: Sequence[Arrival]) -> None:
        """Learn an increment, or refuse the one that has diverged; commit when it is time."""
        number, name = arrivals[0].number, arrivals[0].name
        if self._alarms is not None:
            self._react(self._alarms, arrivals)
        reason = self._divergence.refused.get(number)
        learned = self.engine.learn(arrivals, None if reason is None else {})
        if self._review is not None and reason is None and learned.passes_rows:
            self._look_back(self._review, arrivals, learned)
        if self._alarms is not None and reason is None:
            self._order(self._alarms.learned(sum(arrival.labelled for arrival in arrivals)))
        due = (self.totals.increments + 1) % self.job.publish.every == 0
        seen = due or self._divergence.watches(number)
        fault = fault_of(learned, self.engine.weights() if seen else None)
        if fault is not None:
            self._go_back(number, f"in {name}, {fault}")
            return
        self._divergence.learned(number, seen)
        self._tick()
        self._record(arrivals, learned, reason)
        if due:
            self.commit()

    def _react(self, alarms: Alarms, arrivals: Sequence[Arrival]) -> None:
        """Look for drift in what is known before the increment is learned, and do what is to be done."""
        signalled = alarms.notice(arrivals)
        for alarm, rows in signalled:
            for row in rows:
                what = f"{alarm.monitor.detector} on {alarm.watch}, after {row:,} rows"
                self._happened(arrivals[0], "drift", what, alarm.described(), row)
        known = self.totals.rows_learned > 0
        new = alarms.new_tasks(arrivals)
        if new and known:
            self._happened(arrivals[0], "task", f"task {', '.join(map(str, new))} begins", "consolidated", 0)
        champion = self.directory.champion()
        rewarm = champion is not None and any("rewarm" in alarm.actions for alarm, _ in signalled)
        self._order(
            alarms.orders([alarm for alarm, _ in signalled], boundary=bool(new) and known),
            self.directory.load(champion)[0] if rewarm else None,
        )

    def _look_back(self, review: Review, arrivals: Sequence[Arrival], learned: Round) -> None:
        """When it is time, learn rows of the history once more; they stay in the versions they are in."""
        arrival = arrivals[0]
        if not review.due(arrival.number, arrival.time):
            return
        names = list(self.engine.fragments)
        rows = review.draw(arrival.number, self._uncommitted.rows, self.directory.table("ledger"), names)
        if len(gone := ids_of(erased(self.directory.path), names)):
            left = {name: ids[~torch.isin(ids, gone)] for name, ids in rows.items()}
            rows = {name: ids for name, ids in left.items() if len(ids)}
        if not rows:
            return
        reviewed = self.engine.learn(arrivals, rows)
        learned.bytes_exchanged += reviewed.bytes_exchanged
        learned.seconds_learning += reviewed.seconds_learning
        learned.seconds_exchanging += reviewed.seconds_exchanging
        count, loss = reviewed.passes_rows, reviewed.losses.get("loss", math.nan)
        if fault_of(reviewed, None) is not None:
            learned.losses["loss of the review"] = loss
            return
        asked = sum(map(len, rows.values()))
        what = f"a pass over {count:,} rows drawn from those learned"
        what += f"; the files of {asked - count:,} are gone" if count < asked else ""
        self._happened(arrival, "review", what, f"loss {loss / max(count, 1):.4g}", count)

    def _order(self, orders: Orders, weights: Weights | None = None) -> None:
        if orders or weights is not None:
            self.engine.order(orders, weights)

    def _ended(self) -> bool:
        """The stream has ended: commit what there is. False where it must be learned again, without what diverged."""
        fault = fault_of(Round(), self.engine.weights()) if self._last and self._uncommitted.metrics else None
        if fault is not None:
            self._go_back(self._last.number if self._last else 0, fault)
            return False
        self._tick()
        if self._uncommitted.metrics or self.version is None:
            self.commit()
        if self.totals.events.get("diverged") and not self.totals.rows_learned:
            raise self._diverged("every increment has diverged")
        return True

    def _stopped(self) -> None:
        """Asked to stop: commit what there is, if it is sound; what is not is found again by whoever goes on."""
        self._tick()
        if fault_of(Round(), self.engine.weights()) is None:
            self.commit()

    def _tick(self) -> None:
        self.totals.seconds = time.perf_counter() - self._begun

    def _go_back(self, number: int, fault: str) -> None:
        """Return to the last commit, to learn on from there without the increment that diverged, once it is known."""
        if self._divergence.found(number, fault):
            before = self.totals.diverged_in_a_row
            if before + 1 >= self.job.learner.give_up_after:
                times = f", after {before} increments that diverged too" if before else ""
                raise self._diverged(fault + times)
        self._uncommitted = Uncommitted()
        self._last = None
        self._resume()

    def _resume(self) -> None:
        """Go on from the last commit."""
        if self.version is None:
            self.totals = Totals()
            self._alarms, self._review = self.job.alarms(), self.job.reviews()
            self.engine.start(None)
            return
        weights, _ = self.directory.load(self.version)
        state = loop_state(self.directory.path, self.version)
        self.totals = Totals(**state["totals"])
        if self._alarms is not None:
            self._alarms.load_state_dict(state["alarms"])
        if self._review is not None:
            self._review.load_state_dict(state["review"])
        self.engine.start(Commit(self.version, weights, state["engine"]))

    def _record(self, arrivals: Sequence[Arrival], learned: Round, reason: str | None) -> None:
        """Take in one increment: a row of metrics, the rows learned, the rows refused; all of them for a `reason`."""
        first, totals, new = arrivals[0], self.totals, self._uncommitted
        statistics: Statistics = {}
        for name, arrival in zip(self.engine.participants, arrivals, strict=True):
            statistics = metrics.add(statistics, arrival.statistics)
            if arrival.labelled and reason is None:
                new.rows.setdefault(name, []).append(arrival.rows)
            if len(arrival.duplicates):
                new.duplicates.setdefault(name, []).append(arrival.duplicates)
                totals.rows_duplicate += len(arrival.duplicates)
            new.bad += arrival.bad
            totals.rows_quarantined += len(arrival.bad)
        # All who read the files tell of the same bad ones.
        for file in dict.fromkeys(file for arrival in arrivals for file in arrival.bad_files):
            new.bad_files.append(file)
            totals.files_quarantined += 1
            left = f", from row {file.rows} on" if file.rows else ""
            self._happened(first, "bad file", file.reason, f"{file.fragment} is in quarantine{left}", 0)
        labelled = sum(arrival.labelled for arrival in arrivals)
        if reason is not None:
            self._refuse(arrivals, labelled, reason)
            labelled = 0
        elif labelled:
            totals.diverged_in_a_row = 0
        totals.increments += 1
        totals.rows_learned += labelled
        totals.rows_predicted += sum(arrival.predicted for arrival in arrivals)
        totals.bytes_exchanged += learned.bytes_exchanged
        totals.statistics = metrics.add(totals.statistics, statistics)
        sofar = self.objective.metrics(totals.statistics) if totals.statistics else {}
        now = self.objective.metrics(statistics) if statistics else {}
        version = self.directory.next_version()
        new.metrics.append(metrics_row(arrivals, learned, labelled, now, sofar, version))
        self._last = first
        if self.observe is not None:
            main = self.objective.main_metric
            rate = totals.rows_learned / max(totals.seconds, 1e-9)
            self.observe(Progress(first.name, totals.rows_learned, rate, main, sofar.get(main, math.nan)))

    def _refuse(self, arrivals: Sequence[Arrival], rows: int, reason: str) -> None:
        """Put the rows of a diverged increment in quarantine."""
        totals = self.totals
        self._uncommitted.refused += [whole_table(arrival.rows, self.engine.fragments, reason) for arrival in arrivals]
        totals.rows_quarantined += rows
        totals.diverged_in_a_row += 1
        self._happened(arrivals[0], "diverged", reason, "its rows are in quarantine", rows)

    def _happened(self, arrival: Arrival, kind: str, what: str, action: str, rows: int) -> None:
        self.totals.events[kind] = self.totals.events.get(kind, 0) + 1
        self._uncommitted.events.append(Event(arrival.number, arrival.name, kind, what, action, rows))

    def commit(self) -> None:
        """Publish a version: participants' state first, then, by one rename, everything else."""
        version = self.directory.next_version()
        weights = self.engine.weights()
        with checkpoint.unsynced() as unsynced:
            kept = self.engine.save(version)
        state = {
            "totals": {name: getattr(self.totals, name) for name in Totals.__slots__},
            "engine": kept,
            "participants": list(self.engine.participants),
            "alarms": None if self._alarms is None else self._alarms.state_dict(),
            "review": None if self._review is None else self._review.state_dict(),
        }
        increment = -1 if self._last is None else self._last.number
        history = self.engine.history()
        self.version = self.directory.commit(
            weights,
            manifest={
                "increment": increment,
                "name": "" if self._last is None else self._last.name,
                **self._shape_of_rows(),
            },
            **self._uncommitted.tables(version, self.engine.fragments, increment),
            extra={} if history is None else {"history": history},
            extra_state=self.engine.extra_state(),
            state=state,
            participants=self.engine.participants,
            unsynced=unsynced,
        )
        self._uncommitted = Uncommitted()
        self._divergence.committed()

    def _shape_of_rows(self) -> dict[str, Any]:
        """What a version needs to predict where the stream's rows are gone; nothing where this host never had them."""
        if self._shape is None:
            try:
                width = self.job.data().numeric_width
                self._shape = {"numeric_width": width, "widths": self.job.encoder.widths}
            except (JobError, StreamError):
                self._shape = {}
        return self._shape

    def _diverged(self, what: str) -> DivergedError:
        stands = "nothing is committed yet" if self.version is None else f"version {self.version} is intact"
        return DivergedError(f"learner: {what}; lower learner.optimizer.lr or set learner.clip; {stands}")

    def run_to_summary(self, **more: Any) -> dict[str, Any]:
        """Run, and leave the numbers of the run, and `more`, in its directory as summary.json; returns them.

        "finished" among them is what `run` returns.
        """
        finished = self.run()
        summary = self._summary() | {"finished": finished, **more}
        write_atomically(self.directory.path / "summary.json", json_text(summary).encode() + b"\n")
        return summary

    def _summary(self) -> dict[str, Any]:
        totals = self.totals
        return {
            "name": self.job.name,
            "engine": self.engine.name,
            "increments": totals.increments,
            "rows_learned": totals.rows_learned,
            "rows_predicted": totals.rows_predicted,
            "rows_quarantined": totals.rows_quarantined,
            "files_quarantined": totals.files_quarantined,
            "rows_duplicate": totals.rows_duplicate,
            "events": totals.events,
            "rows_per_second": round(totals.rows_learned / max(totals.seconds, 1e-9), 1),
            "main_metric": self.objective.main_metric,
            "prequential": self.objective.metrics(totals.statistics) if totals.statistics else {},
            "bytes_exchanged": totals.bytes_exchanged,
            "wall_seconds": round(totals.seconds, 3),
            "model_sha256": model_sha256(self.engine.weights()),
            "version": self.version,
            "seed": self.job.learner.seed,
        }
