"""The loop: increments in, versions out, with everything a run must remember in between."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from incr_core import metrics
from incr_core._util import Stopped, json_text, set_by_signals
from incr_core.data.encoding import whole_table
from incr_core.data.timeline import Tick
from incr_core.engines import Commit, Engine
from incr_core.errors import DivergedError, IncrError, JobError, StreamError, WorkerLost
from incr_core.job import Job
from incr_core.loop._alerts import Alerts
from incr_core.loop._change import carry_out
from incr_core.loop._client_rows import ClientSums, client_rows
from incr_core.loop._commit import prepared
from incr_core.loop._divergence import Divergence, fault_of
from incr_core.loop._events import Event
from incr_core.loop._flight import Flight
from incr_core.loop._gate import Gate, Verdict, total
from incr_core.loop._losses import Losses
from incr_core.loop._pending_commit import PendingCommit, metrics_row
from incr_core.loop._requests import woken_by_requests
from incr_core.loop._review_round import review_history
from incr_core.loop._totals import Progress, Totals
from incr_core.objectives import Objective
from incr_core.registry import CHANGE, STOP, RunDirectory, answer, asked, loop_state, request
from incr_core.rounds import Arrival, Orders, Round
from incr_core.storage import model_sha256, write_atomically
from incr_core.update import Weights

__all__ = ["Loop"]


class Loop:
    """Drive an engine over the stream, and commit what it learns to a run directory.

    job, engine, directory: the run. on_progress: called after every increment. lost: who held the run before, if that
    one was lost. alerts: tells a person what happens. stop: what a signal sets, where somebody outside looks at it too.

    `run` goes on from the last commit. It returns True when the stream ended, False when a signal asked it to stop.
    """

    def __init__(
        self,
        job: Job,
        engine: Engine,
        directory: RunDirectory,
        on_progress: Callable[[Progress], None] | None = None,
        lost: str = "",
        alerts: Alerts | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.job = job
        self.engine = engine
        self.directory = directory
        self.on_progress, self._alerts = on_progress, alerts
        self.objective: Objective = job.objective()
        self.totals, self._clients = Totals(), ClientSums()
        self.version = directory.latest()
        self._pending = PendingCommit()
        self._divergence, self._losses = Divergence(), Losses()
        if lost:
            self._losses.noticed(lost)
        self._controller, self._review, self._gate = job.controller(), job.reviews(), self._new_gate()
        self._went_back = False  # since the last commit, from a version that the gate has held
        self._dropped: dict[str, Any] | None = None  # up to which increment and time rows are set aside, and why
        self._reached = 0  # where the last increment ended, microseconds
        self._flight: Flight | None = None
        self._stop = stop or threading.Event()
        self._shape: dict[str, Any] | None = None
        self._begun: float | None = None

    def run(self) -> bool:
        """Learn until the stream ends, or until asked to stop."""
        looking = woken_by_requests(self.directory.path, self._stop, for_changes=self.engine.interruptible)
        with set_by_signals(self._stop), looking:
            while True:
                try:
                    self._learn_on()
                    self._land()
                    return not self._stop.is_set()
                except WorkerLost as lost:
                    self._give_up()
                    if not self._losses.heals(lost, self.engine.max_failures):
                        raise
                    self._pending = PendingCommit()
                except KeyboardInterrupt:
                    self._give_up()
                    raise
                except BaseException:
                    try:
                        with suppress(IncrError):
                            self._land()  # what has gone wrong is not the commit's fault
                    finally:
                        self._give_up()
                    raise

    def _learn_on(self) -> None:
        """Go on from the last commit."""
        try:
            self._resume()
        except Stopped:
            if self._stop.is_set():  # nothing has begun that could be ended with a commit
                raise KeyboardInterrupt from None
            self._resume()
        if self._begun is None:
            self._begun = time.perf_counter() - self.totals.seconds
        while not self._stop.is_set():
            try:
                arrivals = self.engine.receive()
            except Stopped:
                if self._stop.is_set():
                    break
                self._change(waiting=True)
                continue
            if arrivals:
                self._increment(arrivals)
            elif self._ended() and not asked(self.directory.path, CHANGE):
                break
            if asked(self.directory.path, STOP):
                self._stop.set()
            elif asked(self.directory.path, CHANGE):
                self._change()
        self._land()
        if self._stop.is_set() and (self._pending or self.version is None):
            self._stopped()

    def _change(self, *, waiting: bool = False) -> None:
        """Carry out the change that somebody asks for, if there is one.

        waiting: whether the engine was waiting for data, and so must be started anew.
        """
        wanted = request(self.directory.path, CHANGE)
        back = wanted is not None and wanted.get("action") == "rollback"
        if waiting and not back and self._pending:
            self._stopped()
        if wanted is not None:
            self._land()
            outcome = {"token": wanted.get("token")}
            try:
                outcome["done"] = carry_out(self.directory, wanted)
            except IncrError as error:
                outcome["error"], back = str(error), False
            answer(self.directory.path, CHANGE, outcome)
        if back:
            self._pending, self._divergence = PendingCommit(), Divergence()
            self.version = self.directory.latest()
        if back or waiting:
            dropped, went_back = self._dropped, self._went_back and not back
            self._pending = PendingCommit()
            self._resume()
            if went_back:  # what the gate has set aside since the last commit stays so
                self._drop(dropped)
            self._went_back = went_back

    # -- one increment -------------------------------------------------------------------------------------------

    def _increment(self, arrivals: Sequence[Arrival]) -> None:
        """Learn an increment, or skip the one that has diverged; commit when it is time."""
        if self._flight is not None and self._flight.landed:
            self._land()
        tick = arrivals[0].tick
        skipped = self._divergence.skipped.get(tick.number) or self._set_aside(tick)
        self._before(arrivals)
        if self._gate is not None and skipped is None:
            self._gate.arrived(arrivals)
            if self._gate.behind and not self._pending:
                self._gate.caught_up(total(self.engine.judge()))
                self._order(Orders(verdict="promote"))
        learned = self.engine.learn(arrivals, None if skipped is None else {})
        self._losses.gone_on()
        if skipped is None:
            self._after(arrivals, learned)
        leaving = self.engine.leaving()
        if leaving:
            self._happened(tick, "node leaving", leaving, "committed at once", 0)
        due = bool(leaving) or (self.totals.increments + 1) % self.job.publish.every == 0
        checked = due or self._divergence.checks_weights(tick.number)
        fault = fault_of(learned, self.engine if checked else None)
        if fault is not None:
            self._go_back(tick.number, f"in {tick.name}, {fault}")
            return
        self._divergence.learned(tick.number, checked)
        self._record(arrivals, learned, skipped)
        if due:
            self.commit()
            if leaving:
                self._land()
            if self.engine.regroups():
                self._resume()

    def _before(self, arrivals: Sequence[Arrival]) -> None:
        """Detect drift and new tasks in what is known before an increment is learned, and react."""
        controller, tick = self._controller, arrivals[0].tick
        if controller is None:
            return
        drifts = controller.drifts(arrivals)
        for alarm, rows in drifts:
            what = f"{alarm.detector.test} on {alarm.statistic}, after {rows:,} rows"
            self._happened(tick, "drift", what, alarm.described(), rows)
        known = self.totals.rows_learned > 0
        tasks = controller.new_tasks(arrivals)
        if tasks and known:
            self._happened(tick, "task", f"task {', '.join(map(str, tasks))} begins", "consolidated", 0)
        champion = None
        if any("rewarm" in alarm.actions for alarm, _ in drifts):
            self._land()
            champion = self.directory.champion()
        self._order(
            controller.orders([alarm for alarm, _ in drifts], boundary=bool(tasks) and known),
            None if champion is None else self.directory.load(champion)[0],
        )

    def _after(self, arrivals: Sequence[Arrival], learned: Round) -> None:
        """Review the history and consolidate, where an increment that was learned makes them due."""
        tick, review = arrivals[0].tick, self._review
        if review is not None and learned.passes_rows and review.due(tick.number, tick.time):
            self._land()
            done = review_history(review, self.engine, self.directory, self._pending.rows, arrivals, learned)
            if done is not None:
                self._happened(tick, "review", *done)
        if self._controller is not None:
            self._order(self._controller.learned(sum(arrival.labelled for arrival in arrivals)))

    def _order(self, orders: Orders, weights: Weights | None = None) -> None:
        if orders or weights is not None:
            self.engine.order(orders, weights)

    def _record(self, arrivals: Sequence[Arrival], learned: Round, skipped: str | None) -> None:
        """Note one increment for the next commit; skipped: why it was not learned, None where it was."""
        tick, totals, pending = arrivals[0].tick, self.totals, self._pending
        for file in pending.add(self.engine.participants, arrivals, learned=skipped is None):
            totals.files_quarantined += 1
            left = f", from row {file.rows} on" if file.rows else ""
            self._happened(tick, "bad file", file.reason, f"{file.fragment} is in quarantine{left}", 0)
        labelled, self._reached = sum(arrival.labelled for arrival in arrivals), tick.time
        if skipped is not None:
            pending.diverged += [whole_table(arrival.rows, self.engine.origins, skipped) for arrival in arrivals]
            aside = self._set_aside(tick) is not None
            self._happened(tick, "set aside" if aside else "diverged", skipped, "its rows are in quarantine", labelled)
        statistics = metrics.total(arrival.statistics for arrival in arrivals)
        totals.seconds = self._seconds()
        in_a_row = totals.diverged_in_a_row
        totals.add(arrivals, learned, statistics, diverged=skipped is not None)
        if self._set_aside(tick) is not None:
            totals.diverged_in_a_row = in_a_row
        so_far = self.objective.metrics(totals.statistics) if totals.statistics else {}
        now = self.objective.metrics(statistics) if statistics else {}
        rows, version = labelled if skipped is None else 0, self._next_version
        if self._gate is not None:
            self._gate.learned(rows)
        pending.metrics.append(metrics_row(arrivals, learned, rows, now, so_far, version))
        if (told := learned.contributions) is not None:
            of = self.engine.participants, arrivals, told, self._clients, self.objective, version
            pending.clients += client_rows(*of, learned=skipped is None)
        if self._alerts is not None:
            bad, arrived = (sum(counts) for counts in zip(*((len(a.bad), a.arriving) for a in arrivals), strict=True))
            self._alerts.counted(tick, bad, arrived)
        if self.on_progress is not None:
            main = self.objective.main_metric
            value = so_far.get(main, math.nan)
            self.on_progress(Progress(tick.name, totals.rows_learned, totals.rows_per_second, main, value))

    def _set_aside(self, tick: Tick) -> str | None:
        """Why an increment is not learned, where somebody has gone back and set its rows aside."""
        dropped = self._dropped
        return None if dropped is None or tick.number > dropped["up_to"] else str(dropped["why"])

    def _happened(self, tick: Tick, kind: str, what: str, action: str, rows: int) -> None:
        self.totals.events[kind] = self.totals.events.get(kind, 0) + 1
        event = Event(tick, kind, what, action, rows)
        self._pending.events.append(event)
        if self._alerts is not None:
            self._alerts.happened(event)

    def _seconds(self) -> float:
        assert self._begun is not None, "the run has begun"
        return time.perf_counter() - self._begun

    # -- ends and returns ----------------------------------------------------------------------------------------

    def _ended(self) -> bool:
        """The stream has ended: commit what there is. False where it must be learned again, without what diverged."""
        self._land()
        last = self._pending.last
        fault = fault_of(Round(), self.engine) if last is not None else None
        if last is not None and fault is not None:
            self._go_back(last.number, fault)
            return False
        self.totals.seconds = self._seconds()
        if self._pending or self.version is None:
            self.commit()
            if self._went_back:  # there is more to receive: what is set aside
                return False
        if self.totals.events.get("diverged") and not self.totals.rows_learned:
            raise self._diverged("every increment has diverged")
        return True

    def _stopped(self) -> None:
        """Asked to stop: commit what there is, unless it diverged; the next run finds that again."""
        self.totals.seconds = self._seconds()
        if fault_of(Round(), self.engine) is None:
            self.commit()

    def _go_back(self, number: int, fault: str) -> None:
        """Return to the last commit, to learn on from there without the increment that diverged, once it is known."""
        if self._divergence.found(number, fault):
            before = self.totals.diverged_in_a_row
            if before + 1 >= self.job.learner.give_up_after:
                times = f", after {before} increments that diverged too" if before else ""
                raise self._diverged(fault + times)
        self._pending = PendingCommit()
        self._resume()

    def _diverged(self, what: str) -> DivergedError:
        stands = "nothing is committed yet" if self.version is None else f"version {self.version} is intact"
        return DivergedError(f"learner: {what}; lower learner.optimizer.lr or set learner.clip; {stands}")

    def _resume(self) -> None:
        """Return to the last commit, once it is there."""
        self._land()
        if self.version is None:
            self.totals, self._clients = Totals(), ClientSums()
            self._controller, self._review, self._gate = self.job.controller(), self.job.reviews(), self._new_gate()
            self._dropped, self._reached = None, 0
            self.engine.start(None)
            return
        weights, _ = self.directory.load(self.version)
        state = loop_state(self.directory.path, self.version)
        self.totals, self._clients = Totals(**state["totals"]), ClientSums()
        self._clients.load_state_dict(state.get("clients", {"clients": [], "sums": {}}))
        if self._controller is not None:
            self._controller.load_state_dict(state["controller"])
        if self._review is not None:
            self._review.load_state_dict(state["review"])
        self._gate, self._reached = self._new_gate(), state.get("reached", 0)
        if self._gate is not None and state.get("gate") is not None:  # none where the job had no gate then
            self._gate.load_state_dict(state["gate"])
        self.engine.start(Commit(self.version, weights, state["engine"]))
        self._drop(state.get("dropped"))

    def _drop(self, dropped: dict[str, Any] | None) -> None:
        """Pass over what was set aside: its rows are not learned, and no rate reads their labels."""
        self._dropped = dropped
        if dropped is not None and dropped["until"] > self._reached:
            self._order(Orders(aside=dropped["until"]))

    # -- what a run leaves ---------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Publish what was learned since the last commit as a version; at once, or, by an engine that saves meanwhile,
        while the loop goes on."""
        self._land()
        if self._pending.last is not None:
            healed = [("worker lost", *told) for told in self._losses.tell()]
            for kind, what, action in (*healed, *self.engine.news):
                self._happened(self._pending.last, kind, what, action, 0)
        verdict = self._judged()
        if verdict is not None and not verdict.promoted and self.job.publish.on_hold == "rollback":
            self._put_aside(verdict)
            return
        state = {
            "totals": {name: getattr(self.totals, name) for name in Totals.__slots__},
            "controller": None if self._controller is None else self._controller.state_dict(),
            "review": None if self._review is None else self._review.state_dict(),
            "clients": self._clients.state_dict(),
            "gate": None if self._gate is None else self._gate.state_dict(),
            "dropped": self._dropped,
            "reached": self._reached,
        }
        if self.engine.saves_meanwhile:
            state = copy.deepcopy(state)  # written while all of it changes
        version = self._next_version
        shape = self._shape_of_rows()
        finish = prepared(self.directory, self.engine, version, self._pending, state, shape, verdict)
        self._pending = PendingCommit()
        self._divergence.committed()
        if self.engine.saves_meanwhile:
            self._flight = Flight(version, finish)
        else:
            finish(lambda: False)
            self._committed(version)

    def _new_gate(self) -> Gate | None:
        publish = self.job.publish
        goes_back = publish.on_hold == "rollback"
        return Gate(publish.margin, publish.patience, goes_back=goes_back) if publish.gate else None

    def _judged(self) -> Verdict | None:
        """Judge the version that is about to be committed, where the job has a gate, and let participants know."""
        if self._gate is None:
            return None
        held = self._gate.held
        wanted = bool(held) and self.directory.promoted_by_hand()
        due = self._gate.due
        verdict = self._gate.verdict(total(self.engine.judge()), wanted=wanted) if due else self._gate.unasked()
        if not verdict.promoted and self._gate.goes_back:
            return verdict
        self._gate.aside = self._gate.aside + 1 if self._went_back else 0
        self._went_back = False
        if due:
            self._order(Orders(verdict=verdict.follow))
        if self._pending.last is not None and (held or not verdict.promoted):
            action = f"version {self._next_version} is the champion"
            if not verdict.promoted:
                action = f"version {self._next_version} is held, {self.directory.champion()} goes on serving"
            self._happened(self._pending.last, "promoted" if verdict.promoted else "held", verdict.why, action, 0)
        return verdict

    def _put_aside(self, verdict: Verdict) -> None:
        """Go back from a version that is held, before it is committed, and learn on without its rows."""
        last = self._pending.last
        assert last is not None, "what has learned nothing answers as the champion does"
        self._pending, self._went_back = PendingCommit(), True
        self._resume()
        self._drop({"up_to": last.number, "until": last.time, "why": f"set aside by the gate: {verdict.why}"})
        self._happened(last, "held", verdict.why, f"learning goes on from version {self.version}", 0)

    @property
    def _next_version(self) -> int:
        """The number that the next commit will have."""
        return (self._flight.version if self._flight is not None else self.directory.latest() or 0) + 1

    def _land(self) -> None:
        """Wait until the commit that is under way is over; WorkerLost where it cannot be."""
        if self._flight is not None:
            self.engine.settle()
            self._flight.result()
            version, self._flight = self._flight.version, None
            self._committed(version)

    def _give_up(self) -> None:
        """Somebody was lost: the commit that is under way ends as it can, and if it cannot, it was none."""
        if self._flight is not None:
            flight, self._flight = self._flight, None
            flight.give_up()
            with suppress(IncrError):
                flight.result()
                self._committed(flight.version)
            self.version = self.directory.latest()  # where it failed after all was there, too

    def _committed(self, version: int) -> None:
        self.version = version
        self._losses.committed()
        self.engine.committed(version)
        if self._alerts is not None:
            self._alerts.committed()

    def _shape_of_rows(self) -> dict[str, Any]:
        """What a version needs to predict where the stream's rows are gone; nothing where this host never had them."""
        if self._shape is None:
            try:
                self._shape = {"numeric_width": self.job.numeric_width, "widths": self.job.encoder.widths}
            except (JobError, StreamError):
                self._shape = {}
        return self._shape

    def run_to_summary(self, **more: Any) -> dict[str, Any]:
        """Run, and leave the numbers of the run, and `more`, in its directory as summary.json; returns them.

        "finished" among them is what `run` returns.
        """
        finished = self.run()
        summary = {
            "name": self.job.name,
            "engine": self.engine.name,
            **self.totals.summary(self.objective),
            "model_sha256": model_sha256(self.engine.weights()),
            "version": self.version,
            "seed": self.job.learner.seed,
            "finished": finished,
            **self.engine.told(),
            **more,
        }
        write_atomically(self.directory.path / "summary.json", json_text(summary).encode() + b"\n")
        return summary
