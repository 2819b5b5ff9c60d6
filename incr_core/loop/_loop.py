"""The loop: increments in, versions out, until the stream ends, a stop is requested, or too many workers are lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from incr_core._util import Stopped, json_text, set_by_signals
from incr_core.engines import Engine
from incr_core.errors import IncrError, WorkerLost
from incr_core.job import Job
from incr_core.loop._alerts import Alerts
from incr_core.loop._change import carry_out
from incr_core.loop._learning import Learning
from incr_core.loop._requests import woken_by_requests
from incr_core.loop._totals import Progress, Totals
from incr_core.registry import CHANGE, STOP, RunDirectory, answer, asked, request
from incr_core.storage import model_sha256, write_atomically

__all__ = ["Loop"]


class Loop:
    """Drives an engine over the stream, and commits the results to a run directory.

    `run` continues from the last commit. It returns True when the stream has ended, False when a signal requested a
    stop.

    Args:
        job: The job.
        engine: The engine.
        directory: The run directory.
        on_progress: Called after every increment.
        lost: Description of the previous process of the run, if that was lost.
        alerts: Sends alerts; None sends none.
        stop: Event that a signal sets, if other threads observe it as well.
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
        self.job, self.engine, self.directory = job, engine, directory
        self.on_progress = on_progress
        self.learning = Learning(job, engine, directory, self._progressed, lost, alerts)
        self.objective = self.learning.objective
        self._stop = stop or threading.Event()

    @property
    def totals(self) -> Totals:
        """Sums over all increments."""
        return self.learning.state.totals

    def _progressed(self, progress: Progress) -> None:
        if self.on_progress is not None:
            self.on_progress(progress)

    def run(self) -> bool:
        """Learn until the stream ends, or until a stop is requested."""
        commits = self.learning.commits
        looking = woken_by_requests(self.directory.path, self._stop, for_changes=self.engine.interruptible)
        with set_by_signals(self._stop), looking:
            while True:
                try:
                    self._learn_on()
                    commits.land()
                    return not self._stop.is_set()
                except WorkerLost as lost:
                    commits.give_up()
                    if not self.learning.lost(lost):
                        raise
                except KeyboardInterrupt:
                    commits.give_up()
                    raise
                except BaseException:
                    try:
                        with suppress(IncrError):
                            commits.land()  # the error does not concern the commit
                    finally:
                        commits.give_up()
                    raise

    def _learn_on(self) -> None:
        """Continue from the last commit."""
        learning = self.learning
        try:
            learning.resume()
        except Stopped:
            if self._stop.is_set():  # nothing was begun that a commit could save
                raise KeyboardInterrupt from None
            learning.resume()
        while not self._stop.is_set():
            try:
                arrivals = self.engine.receive()
            except Stopped:
                if self._stop.is_set():
                    break
                self._change(waiting=True)
                continue
            if arrivals:
                learning.increment(arrivals)
            elif learning.ended() and not asked(self.directory.path, CHANGE):
                break
            if asked(self.directory.path, STOP):
                self._stop.set()
            elif asked(self.directory.path, CHANGE):
                self._change()
        learning.commits.land()
        if self._stop.is_set() and (learning.pending or learning.commits.version is None):
            learning.stopped()

    def _change(self, *, waiting: bool = False) -> None:
        """Perform a requested change, if there is one.

        Args:
            waiting: Whether the engine was waiting for data and must be restarted.
        """
        learning = self.learning
        wanted = request(self.directory.path, CHANGE)
        back = wanted is not None and wanted.get("action") == "rollback"
        if waiting and not back and learning.pending:
            learning.stopped()
        if wanted is not None:
            learning.commits.land()
            outcome = {"token": wanted.get("token")}
            try:
                outcome["done"] = carry_out(self.directory, wanted)
            except IncrError as error:
                outcome["error"], back = str(error), False
            answer(self.directory.path, CHANGE, outcome)
        if back:
            learning.rolled_back()
        elif waiting:
            learning.resume_where_it_stood()

    def run_to_summary(self, **more: Any) -> dict[str, Any]:
        """Run, and write the run's numbers and `more` to summary.json in its directory; return them.

        The entry "finished" is the result of `run`.
        """
        finished = self.run()
        slices = self.learning.state.slices
        sliced = {} if slices is None else slices.summary(self.objective)
        summary = {
            "name": self.job.name,
            "engine": self.engine.name,
            **self.totals.summary(self.objective),
            **({"slices": sliced} if sliced else {}),
            "model_sha256": model_sha256(self.engine.weights()),
            "version": self.learning.commits.version,
            "seed": self.job.learner.seed,
            "finished": finished,
            **self.engine.told(),
            **more,
        }
        write_atomically(self.directory.path / "summary.json", json_text(summary).encode() + b"\n")
        return summary
