"""Commits: first the participants' state, then everything else by one rename; at most one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from incr_core.engines import Engine, Saving
from incr_core.errors import IncrError, JobError, StreamError
from incr_core.job import Job
from incr_core.loop._flight import Flight
from incr_core.loop._gate import Verdict
from incr_core.loop._pending_commit import PendingCommit
from incr_core.registry import RunDirectory
from incr_core.storage import checkpoint

__all__ = ["Commits"]


class Commits:
    """Publishes learned increments as versions: synchronously, or in a background flight if the engine continues
    meanwhile.

    Args:
        job: The job.
        engine: The engine.
        directory: The run directory.
        then: Called when a version is committed.

    Attributes:
        version: The newest committed version; None before the first.
    """

    def __init__(self, job: Job, engine: Engine, directory: RunDirectory, then: Callable[[], None]) -> None:
        self._job, self._engine, self._directory, self._then = job, engine, directory, then
        self._flight: Flight | None = None
        self._unsynced: list[Path] = []  # files that participants have saved for the next version
        self._shape: dict[str, Any] | None = None
        self.version = directory.latest()

    @property
    def next_version(self) -> int:
        """The number of the next commit."""
        return (self._flight.version if self._flight is not None else self._directory.latest() or 0) + 1

    def save(self) -> Saving:
        """Let participants save their state for the next version."""
        with checkpoint.unsynced() as self._unsynced:
            return self._engine.save(self.next_version)

    def publish(
        self, saving: Saving, pending: PendingCommit, state: Mapping[str, Any], verdict: Verdict | None = None
    ) -> None:
        """Commit the version that participants are saving.

        Args:
            saving: The version being saved.
            pending: The increments learned since the last commit.
            state: The loop's own state.
            verdict: The gate's verdict; None without a gate, and every version is then published.
        """
        version, last, unsynced = self.next_version, pending.last, self._unsynced
        increment, name = (-1, "") if last is None else (last.number, last.name)
        kept = {**state, "engine": saving.state, "participants": list(self._engine.participants)}
        tables = pending.tables(version, self._engine.origins, increment)
        manifest = {
            "increment": increment,
            "name": name,
            **self._shape_of_rows(),
            **({"personal": list(saving.personal)} if saving.personal else {}),
            **({} if verdict is None else {"gate": verdict.document()}),
        }

        def finish(given_up: Callable[[], bool]) -> None:
            self._directory.commit(
                saving.weights(given_up),
                manifest=manifest,
                **tables,
                extra={} if saving.history is None else {"history": saving.history},
                extra_state=saving.extra_state,
                state=kept,
                publish=verdict is None or verdict.promoted,
                participants=list(saving.swept),
                retired=list(saving.retired),
                unsynced=unsynced,
            )

        if saving.meanwhile:
            self._flight = Flight(version, saving, finish)
        else:
            finish(lambda: False)
            self._committed(version, saving)

    def _shape_of_rows(self) -> dict[str, Any]:
        """Return the widths of rows, which a version needs to predict without the stream; empty if this host has no
        rows.
        """
        if self._shape is None:
            try:
                self._shape = {"numeric_width": self._job.numeric_width, "widths": self._job.encoder.widths}
            except (JobError, StreamError):
                self._shape = {}
        return self._shape

    def _committed(self, version: int, saving: Saving) -> None:
        self.version = version
        self._then()
        saving.committed()

    def land(self, *, wait: bool = True) -> None:
        """Finish the running commit if it is done, or `wait` for it. Raises WorkerLost if a worker was lost."""
        flight = self._flight
        if flight is not None and (wait or flight.landed):
            if not flight.made:
                flight.saving.settle()
            flight.result()
            self._flight = None
            self._committed(flight.version, flight.saving)

    def give_up(self) -> None:
        """Abandon the running commit after a loss: it completes if it still can, and otherwise does not count."""
        if self._flight is not None:
            flight, self._flight = self._flight, None
            flight.give_up()
            with suppress(IncrError):
                flight.result()
                self._committed(flight.version, flight.saving)
            self.look_again()  # a commit that failed may still have been made

    def look_again(self) -> None:
        """Reread the newest version from the run directory."""
        self.version = self._directory.latest()
