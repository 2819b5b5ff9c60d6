"""A run in Python: its directory, its results, and operations on it."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from incr_core._util import unknown
from incr_core.errors import ArgumentError, RunDirectoryError
from incr_core.job import Job
from incr_core.registry import TABLES, RunDirectory, champion_of
from incr_core.report import write_report
from incr_core.runs._change import change
from incr_core.runs._engine_choice import EngineSettings
from incr_core.runs._erase import erase, rows_where
from incr_core.runs._learn import OnProgress, learn
from incr_core.runs._status import Status
from incr_core.runs._stop import stop
from incr_core.runs._summary import Summary
from incr_core.runs._task_matrix import task_matrix
from incr_core.runs._version import Version
from incr_core.runs._version_record import VersionRecord
from incr_core.storage import located, told

__all__ = ["Run", "run"]


class Run:
    """A run in its directory: `incr_core.run` and `open_run` return one, `Run("runs/flights")` opens an existing one.

    A run at an address (`Run("s3://bucket/flights")`) has a working copy, a folder of this process, as its `path`.
    Everything but the job is read from the directory on each access, so it is current while another process learns.

    Args:
        path: The run directory, or its address.
        job: The job. Default: the job that the directory holds.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> rows = {"x": [0.0, 1.0, 2.0, 3.0], "y": [0, 1, 0, 1]}
        >>> from incr_core.runs import open_run
        >>> run = open_run(folder.name, stream=rows, label="y", every=2, hidden=[4]).run()
        >>> run.summary.rows_learned, [version.rows for version in run.versions], run.champion.number
        (4, [2, 2], 2)
        >>> run.promote(1)
        'champion: version 1 (was 2), until the next one is published'
        >>> run.champion.number, run.champion.predict({"x": [0.5]}).column_names
        (1, ['row', 'probability'])
        >>> folder.cleanup()
    """

    def __init__(self, path: str | Path, job: Job | None = None) -> None:
        self.path = located(path)
        if job is None:
            RunDirectory.open(self.path)  # raises an error if there is no run
        self._job = job
        self._loaded: Version | None = None

    @property
    def job(self) -> Job:
        """The job of the run."""
        if self._job is None:
            self._job = Job.from_document(RunDirectory.open(self.path).job(), place=str(self.path / "job.toml"))
        return self._job

    def run(
        self, on: str | EngineSettings = "local", on_progress: OnProgress | None = None, *, follow: bool = False
    ) -> Self:
        """Learn to the end of the stream, from the last commit if there is one; return the run itself.

        Files that arrive during the run are learned too. A signal stops the run after the current increment. Then
        `summary.finished` is False, and the same call continues.

        Args:
            on: "local", "cluster" or "federated", or an engine with settings: `cluster.Cluster(replicas=2)`.
            on_progress: Receives the name of the run (the job's, then each baseline's) and its progress after every
                increment.
            follow: Wait for more files until a signal or `stop` ends the run.
        """
        self._job = learn(self.job, self.path, on, on_progress, follow=follow)
        return self

    @property
    def summary(self) -> Summary:
        """The numbers of the run. It has finished when its baselines have finished too."""
        found = Summary.read(self.path)
        for baseline in self.baselines.values():
            if found.finished and not (baseline.exists() and baseline.summary.finished):
                found = replace(found, finished=False)
        return found

    def exists(self) -> bool:
        """Whether the directory holds a run that has a summary."""
        return (self.path / "summary.json").exists()

    @property
    def baselines(self) -> dict[str, Run]:
        """The baselines, by name."""
        return {
            name: Run(self.path / "baselines" / name, self.job.with_settings([*settings, "baselines={}"]))
            for name, settings in self.job.baselines.items()
        }

    @property
    def versions(self) -> list[VersionRecord]:
        """The versions, oldest first."""
        return VersionRecord.all_of(self.path)

    @property
    def champion(self) -> Version:
        """The version that is served, ready to predict. Every byte is verified when it is read."""
        if self._loaded is None or self._loaded.number != champion_of(self.path):
            self._loaded = self.version()
        return self._loaded

    def version(self, number: int | None = None) -> Version:
        """Return a version, ready to predict; default: the champion."""
        return Version.load(self.path, number, self.job)

    @property
    def status(self) -> Status:
        """Current state of the run, also while another process learns."""
        return Status.of(self.path)

    def stop(self, timeout: float = 600.0) -> int | None:
        """Ask the process that learns, on any host, to commit and end; return the version, as `stop` does."""
        return stop(self.path, timeout)

    def rollback(self, version: int, *, drop: bool = False) -> str:
        """Undo learning since a version. Learning continues from it under the next number. Returns a sentence about the
        change.

        The version must be one of the newest that keep their state (`publish.states`, by default 2). The rows are
        pending again, or set aside with `drop`. The process that learns, if there is one, makes this change and the
        ones below.
        """
        return change(self.path, "rollback", version, drop=drop)

    def promote(self, version: int) -> str:
        """Make a version the champion, until the next one is published."""
        return change(self.path, "promote", version)

    def pin(self, version: int | None = None) -> str:
        """Make a version, by default the champion, the champion until it is unpinned."""
        return change(self.path, "hold" if version is None else "pin", version)

    def unpin(self) -> str:
        """Let the next version that is published become the champion."""
        return change(self.path, "unpin")

    def erase(self, rows: pa.Table | str) -> dict[str, Any]:
        """Delete rows from everything that the run keeps of rows; return the counts of `erase`.

        Args:
            rows: Addresses, in columns `fragment` and `offset`; or "COLUMN=VALUE" for the matching rows of the run's
                files.
        """
        addresses = rows_where(self.path, rows, self.job)[0] if isinstance(rows, str) else rows
        return erase(self.path, addresses, self.job)

    def table(self, name: str) -> pa.Table:
        """Return all rows so far of one of the run's tables.

        Args:
            name: "metrics", "ledger", "duplicates", "dropped", "quarantine", "events" or "clients".

        Raises:
            ArgumentError: There is no table of this name.
        """
        if name not in TABLES:
            raise ArgumentError(f"table: {unknown('a table of a run', name, TABLES)}")
        return RunDirectory.open(self.path).table(name)

    @property
    def report(self) -> Path:
        """The page `report.html`, written again."""
        return self.write_report()

    def write_report(self, tasks: str | Path | None = None) -> Path:
        """Write the page `report.html` again and return its path.

        Args:
            tasks: A file of labelled rows with the column `features.task`. Every version is measured on each of its
                tasks.
        """
        matrix = None if tasks is None else task_matrix(self.path, self.job, tasks)
        return write_report(RunDirectory.open(self.path), matrix)

    def __repr__(self) -> str:
        return f"Run({told(self.path)!r}): {self._in_words()}"

    def _repr_html_(self) -> str:
        """Display of the run in a notebook."""
        return f"<b>{escape(self.job.name)}</b> in <code>{escape(told(self.path))}</code>: {escape(self._in_words())}"

    def _in_words(self) -> str:
        try:
            summary = Summary.read(self.path)
        except RunDirectoryError:
            return "nothing learned yet" if champion_of(self.path) is None else f"champion {champion_of(self.path)}"
        value = summary.prequential.get(summary.main_metric)
        measured = "" if value is None else f", prequential {summary.main_metric} {value:.4f}"
        return (
            f"{summary.rows_learned:,} rows learned in {summary.increments:,} increments on {summary.engine}"
            f"{measured}, version {summary.version}, champion {champion_of(self.path)}"
        )


def run(
    job: Job | str | Path,
    out: str | Path,
    on: str | EngineSettings = "local",
    on_progress: OnProgress | None = None,
    *,
    follow: bool = False,
) -> Run:
    """Run a job on an engine, in the run directory `out`; a run that has begun continues from its last commit.

    Args:
        job: A job, or the path of a job file, which `Job.read` reads.
        out: The run directory.
        on: As for `Run.run`.
        on_progress: As for `Run.run`.
        follow: As for `Run.run`.

    Returns:
        The run.
    """
    return Run(out, Job.read(job) if isinstance(job, str | Path) else job).run(on, on_progress, follow=follow)
