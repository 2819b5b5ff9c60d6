"""Learning between commits: increments, the actions before and after each, and the return to the last commit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from incr_core import metrics
from incr_core.data.encoding import whole_table
from incr_core.data.timeline import Tick
from incr_core.engines import Commit, Engine, Saving
from incr_core.errors import DivergedError, WorkerLost
from incr_core.job import Job
from incr_core.loop._alerts import Alerts
from incr_core.loop._client_rows import client_rows
from incr_core.loop._commits import Commits
from incr_core.loop._divergence import Divergence, fault_of
from incr_core.loop._events import Event
from incr_core.loop._gate import Verdict, total
from incr_core.loop._limits import Limits
from incr_core.loop._losses import Losses
from incr_core.loop._newest import Newest
from incr_core.loop._pending_commit import PendingCommit, metrics_row, trivial_columns
from incr_core.loop._review_round import review_history
from incr_core.loop._state import LoopState
from incr_core.loop._totals import Progress
from incr_core.objectives import Objective
from incr_core.registry import RunDirectory, loop_state
from incr_core.rounds import WAITING, Arrival, Comparison, Counts, Orders, Round
from incr_core.update import Weights

__all__ = ["Learning"]


class Learning:
    """Lets an engine learn increments, commits the result, and returns to the last commit when necessary.

    Args:
        job: The job.
        engine: The engine.
        directory: The run directory.
        on_progress: Called after every increment.
        lost: Description of the previous process of the run, if that was lost.
        alerts: Sends alerts; None sends none.

    Attributes:
        state: The loop's part of a commit.
        pending: The increments learned since the last commit.
        commits: The versions.
    """

    def __init__(
        self,
        job: Job,
        engine: Engine,
        directory: RunDirectory,
        on_progress: Callable[[Progress], None],
        lost: str,
        alerts: Alerts | None,
    ) -> None:
        self.job, self.engine, self.directory = job, engine, directory
        self._on_progress, self._alerts = on_progress, alerts
        self.objective: Objective = job.objective()
        self.state = LoopState(job)
        self.pending = PendingCommit()
        self.commits = Commits(job, engine, directory, self._committed)
        engine.while_waiting = partial(self.commits.land, wait=False)
        self._divergence, self._losses = Divergence(), Losses()
        if lost:
            self._losses.noticed(lost)
        self._went_back = False  # whether rows of a held version were set aside since the last commit
        self._begun: float | None = None
        self._cleared: list[int] = []  # versions without weights, since the disk is limited

    # -- one increment -------------------------------------------------------------------------------------------

    def increment(self, arrivals: Sequence[Arrival]) -> None:
        """Learn an increment, or skip it if it has diverged; commit when due."""
        self.commits.land(wait=False)
        tick = arrivals[0].tick
        skipped = self._divergence.skipped.get(tick.number) or self.state.why_aside(tick)
        self._before(arrivals)
        gate = self.state.gate
        if gate is not None and skipped is None:
            gate.arrived(arrivals)
            if gate.behind and not self.pending:
                gate.caught_up(total(self.engine.judge()))
                self._order(Orders(verdict="promote"))
        learned = self.engine.learn(arrivals, None if skipped is None else {})
        self._losses.gone_on()
        if skipped is None:
            self._after(arrivals, learned)
        leaving = self.engine.leaving()
        if leaving:
            self._happened(tick, "node leaving", leaving, "committed at once", 0)
        due = bool(leaving) or (self.state.totals.increments + 1) % self.job.publish.every == 0
        checked = due or self._divergence.checks_weights(tick.number)
        fault = fault_of(learned, self.engine if checked else None)
        if fault is not None:
            self._diverged(tick.number, f"in {tick.name}, {fault}")
            return
        self._divergence.learned(tick.number, checked)
        self._record(arrivals, learned, skipped)
        if due:
            saving = self.commit()
            if leaving:
                self.commits.land()
            if saving is not None and saving.membership_changes():
                self.resume()

    def _before(self, arrivals: Sequence[Arrival]) -> None:
        """Detect drift and new tasks before an increment is learned, and react."""
        controller, tick = self.state.controller, arrivals[0].tick
        if controller is None:
            return
        drifts = controller.drifts(arrivals)
        for alarm, rows in drifts:
            what = f"{alarm.detector.test} on {alarm.statistic}, after {rows:,} rows"
            self._happened(tick, "drift", what, alarm.described(), rows)
        known = self.state.totals.rows_learned > 0
        tasks = controller.new_tasks(arrivals)
        if tasks and known:
            self._happened(tick, "task", f"task {', '.join(map(str, tasks))} begins", "consolidated", 0)
        champion = None
        if any("rewarm" in alarm.actions for alarm, _ in drifts):
            self.commits.land()
            champion = self.directory.champion()
        self._order(
            controller.orders([alarm for alarm, _ in drifts], boundary=bool(tasks) and known),
            None if champion is None else self.directory.load(champion)[0],
        )

    def _after(self, arrivals: Sequence[Arrival], learned: Round) -> None:
        """Review the history and consolidate, if the learned increment makes them due."""
        tick, review = arrivals[0].tick, self.state.review
        if review is not None and learned.passes_rows and review.due(tick.number, tick.time):
            self.commits.land()
            done = review_history(review, self.engine, self.directory, self.pending.rows, arrivals, learned)
            if done is not None:
                self._happened(tick, "review", *done)
        if self.state.controller is not None:
            self._order(self.state.controller.learned(sum(arrival.labelled for arrival in arrivals)))

    def _order(self, orders: Orders, weights: Weights | None = None) -> None:
        if orders or weights is not None:
            self.engine.order(orders, weights)

    def _record(self, arrivals: Sequence[Arrival], learned: Round, skipped: str | None) -> None:
        """Record one increment for the next commit; `skipped` is the reason if it was not learned."""
        tick, state, pending, counts = arrivals[0].tick, self.state, self.pending, Counts.of(arrivals)
        for file in pending.add(self.engine.participants, arrivals, learned=skipped is None):
            state.totals.files_quarantined += 1
            left = f", from row {file.rows} on" if file.rows else ""
            self._happened(tick, "bad file", file.reason, f"{file.fragment} is in quarantine{left}", 0)
        aside = state.why_aside(tick) is not None
        if skipped is not None:
            pending.diverged += [whole_table(arrival.rows, self.engine.origins, skipped) for arrival in arrivals]
            kind = "set aside" if aside else "diverged"
            self._happened(tick, kind, skipped, "its rows are in quarantine", counts.labelled)
        if state.limits is not None:
            self._keep_limits(state.limits, tick, counts, arrivals, learned)
        statistics = metrics.total(arrival.statistics for arrival in arrivals)
        state.reached, state.totals.seconds = tick.time, self._seconds()
        state.totals.add(counts, learned, statistics, skipped=skipped is not None, aside=aside)
        so_far = self.objective.metrics(state.totals.statistics) if state.totals.statistics else {}
        now = self.objective.metrics(statistics) if statistics else {}
        version = self.commits.next_version
        if state.gate is not None:
            state.gate.learned(counts.labelled if skipped is None else 0)
        slices = state.slices
        sliced = {} if slices is None else slices.add((arrival.sliced for arrival in arrivals), self.objective)
        pending.metrics.append(
            metrics_row(arrivals, counts, learned, now, so_far, version, skipped=skipped is not None)
            | sliced
            | trivial_columns(statistics, state.totals.statistics)
        )
        if (told := learned.contributions) is not None:
            of = self.engine.participants, arrivals, told, state.clients, self.objective, version
            pending.clients += client_rows(*of, learned=skipped is None)
        if self._alerts is not None:
            self._alerts.counted(tick, counts.bad, counts.arriving)
        main = self.objective.main_metric
        value, rates = so_far.get(main, math.nan), state.totals.rows_per_second
        self._on_progress(Progress(tick.name, state.totals.rows_learned, rates, main, value))

    def _keep_limits(
        self, limits: Limits, tick: Tick, counts: Counts, arrivals: Sequence[Arrival], learned: Round
    ) -> None:
        """Note that rows are dropped from here on, or none any more; decide which share of the next ones is learned."""
        offers = counts.dropped + counts.labelled > 0 and tick.name != WAITING
        if limits.dropping != bool(counts.dropped) and offers:
            limits.dropping = bool(counts.dropped)
            offered = counts.dropped + counts.labelled
            what = f"{counts.dropped:,} of {offered:,} rows are above the limits"
            action = "a sample is learned, the others are in the table dropped" if counts.dropped else "all are learned"
            self._happened(tick, "limit", what, action, counts.dropped)
        spent = max(arrival.seconds for arrival in arrivals) + learned.seconds_learning + learned.seconds_exchanging
        if not tick.warm and limits.took(spent, counts.labelled):
            self._order(Orders(share=limits.share))

    def _happened(self, tick: Tick, kind: str, what: str, action: str, rows: int) -> None:
        events = self.state.totals.events
        events[kind] = events.get(kind, 0) + 1
        event = Event(tick, kind, what, action, rows)
        self.pending.events.append(event)
        if self._alerts is not None:
            self._alerts.happened(event)

    def _seconds(self) -> float:
        """Return the total running time, over all processes of the run."""
        assert self._begun is not None, "the run has begun"
        return time.perf_counter() - self._begun

    # -- ends and returns ----------------------------------------------------------------------------------------

    def ended(self) -> bool:
        """Commit the rest at the end of the stream. Return False if increments must be learned again after a
        divergence.
        """
        self.commits.land()
        last = self.pending.last
        fault = fault_of(Round(), self.engine) if last is not None else None
        if last is not None and fault is not None:
            self._diverged(last.number, fault)
            return False
        totals = self.state.totals
        totals.seconds = self._seconds()
        if self.pending or self.commits.version is None:
            self.commit()
            if self._went_back:  # the increments that were set aside are still to be received
                return False
        if totals.events.get("diverged") and not totals.rows_learned:
            raise self._hopeless("every increment has diverged")
        return True

    def stopped(self) -> None:
        """Commit before stopping, unless the state diverged; the next run detects that again."""
        self.state.totals.seconds = self._seconds()
        if fault_of(Round(), self.engine) is None:
            self.commit()

    def _diverged(self, number: int, fault: str) -> None:
        """Return to the last commit, and from there skip the diverged increment once it is identified."""
        if self._divergence.found(number, fault):
            before = self.state.totals.diverged_in_a_row
            if before + 1 >= self.job.learner.give_up_after:
                times = f", after {before} increments that diverged too" if before else ""
                raise self._hopeless(fault + times)
        self.resume()

    def _hopeless(self, what: str) -> DivergedError:
        version = self.commits.version
        stands = "nothing is committed yet" if version is None else f"version {version} is intact"
        return DivergedError(f"learner: {what}; lower learner.optimizer.lr or set learner.clip; {stands}")

    def resume(self) -> None:
        """Start, or return to the last commit once it is complete; pending increments are dropped."""
        self.commits.land()
        version, self.pending = self.commits.version, PendingCommit()
        self.state = LoopState(self.job)
        if version is None:
            self.engine.start(None)
        else:
            weights, _ = self.directory.load(version)
            kept = loop_state(self.directory.path, version)
            self.state.load_state_dict(kept)
            self.engine.start(Commit(version, weights, kept["engine"]))
            self._pass_over(self.state.dropped)
            limits, share = self.state.limits, kept.get("limits", {}).get("share", 1.0)
            if limits is not None and share < 1.0:  # the limit itself may have changed since
                self._order(Orders(share=limits.share))
        if self._begun is None:
            self._begun = time.perf_counter() - self.state.totals.seconds

    def resume_where_it_stood(self) -> None:
        """Return to the last commit with nothing pending, keeping the increments that the gate has set aside."""
        dropped, went_back = self.state.dropped, self._went_back
        self.resume()
        if went_back:
            self._pass_over(dropped)
        self._went_back = went_back

    def rolled_back(self) -> None:
        """Continue from the version that a rollback has made the newest."""
        self._divergence, self._went_back = Divergence(), False
        self.commits.look_again()
        self.resume()

    def lost(self, lost: WorkerLost) -> bool:
        """Whether the run can continue from the last commit after a loss: not after too many in a row."""
        return self._losses.heals(lost, self.engine.max_failures)

    def _pass_over(self, dropped: dict[str, Any] | None) -> None:
        """Set increments aside: their rows are not learned, and rates exclude their labels."""
        self.state.dropped = dropped
        if dropped is not None and dropped["until"] > self.state.reached:
            self._order(Orders(aside=dropped["until"]))

    # -- commits -------------------------------------------------------------------------------------------------

    def commit(self) -> Saving | None:
        """Publish the increments since the last commit as a version, or return None if the gate sets them aside."""
        self.commits.land()
        verdict = self._judged()
        if verdict is not None and not verdict.promoted and self.job.publish.on_hold == "rollback":
            self._put_aside(verdict)
            return None
        saving, last = self.commits.save(), self.pending.last
        if last is not None:
            healed = [("worker lost", *told) for told in self._losses.tell()]
            if self._cleared:
                what = f"the run's directory has reached {self.job.limits.disk:g} GB"
                healed.append(("limit", what, f"{len(self._cleared):,} older versions have lost their weights"))
                self._cleared = []
            for kind, what, action in (*healed, *saving.news):
                self._happened(last, kind, what, action, 0)
        pending, self.pending = self.pending, PendingCommit()
        self._divergence.committed()
        self.commits.publish(saving, pending, self.state.state_dict(copied=saving.meanwhile), verdict)
        return saving

    def _judged(self) -> Verdict | None:
        """Judge the version that is about to be committed, if the job has a gate, and inform the participants."""
        gate, version = self.state.gate, self.commits.next_version
        if gate is None:
            return None
        held = gate.held
        wanted = bool(held) and self.directory.promoted_by_hand()
        newest = self._newest()
        due = gate.due or bool(gate.refuses(newest))
        if due:
            verdict = gate.verdict(total(self.engine.judge()), wanted=wanted, newest=newest)
        else:
            verdict = gate.unasked(newest)
        if not verdict.promoted and gate.goes_back:
            return verdict
        gate.aside = gate.aside + 1 if self._went_back else 0
        self._went_back = False
        if due:
            self._order(Orders(verdict=verdict.follow))
        if self.pending.last is not None and (held or not verdict.promoted):
            action = f"version {version} is the champion"
            if not verdict.promoted:
                action = f"version {version} is held, {self.directory.champion()} continues to serve"
            self._happened(self.pending.last, "promoted" if verdict.promoted else "held", verdict.why, action, 0)
        return verdict

    def _newest(self) -> Newest | None:
        """Compare the version that is about to be committed with the champion on rows held back, if there are any."""
        champion = self.directory.champion() if self.job.publish.holdout else None
        if champion is None:
            return None
        compared = self.engine.compare(self.directory.load(champion)[0])
        return Newest.of(Comparison.total(compared), self.objective)

    def _put_aside(self, verdict: Verdict) -> None:
        """Return from a held version before it is committed, and continue without its rows."""
        last = self.pending.last
        assert last is not None, "without new rows the predictions equal the champion's"
        self._went_back = True
        self.resume()
        self._pass_over({"up_to": last.number, "until": last.time, "why": f"set aside by the gate: {verdict.why}"})
        self._happened(last, "held", verdict.why, f"learning continues from version {self.commits.version}", 0)

    def _committed(self) -> None:
        self._losses.committed()
        if cleared := self.directory.take_cleared():
            self._cleared += cleared
        if self._alerts is not None:
            self._alerts.committed()
