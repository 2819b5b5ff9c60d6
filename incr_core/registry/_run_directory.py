"""The run directory and its versions: the complete data of a run, readable by other tools.

    DIR/job.toml                 the job as resolved; its first line identifies the folder as a run directory
    DIR/versions/N/              a version: model.safetensors, and commit.zip with its manifest and tables (`_version`)
    DIR/champion                 the number of the published version
    DIR/pinned                   the same, if it is pinned
    DIR/segments.json            the list of segments (`_segments`)
    DIR/metrics/*.parquet        segments of a table; also ledger, duplicates, quarantine, events, clients, manifests
    DIR/state/PARTICIPANT/N/     the state each participant needs to resume from version N
    DIR/erased/*.parquet         addresses of rows that were erased
    DIR/detached.json            the holder of a detached run, and its exit status (`_detached`)

A commit is one rename: `versions/.tmp-N` becomes `versions/N`. After a number of commits, their tables are folded into
a segment, and folders of pruned versions are removed. Everything outside `versions/` and the segments can be derived
from them, so the next `create` or `open` repairs the state after a kill.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pyarrow as pa

from incr_core.errors import RunDirectoryError, StorageError
from incr_core.registry._champion import make_champion, pin, withdraw
from incr_core.registry._committing import Committing
from incr_core.registry._detached import withdraw_detached
from incr_core.registry._erased import refuse_unfinished
from incr_core.registry._job_claim import AsNow, as_written, refuse_foreign_files, require_run, write_job
from incr_core.registry._participant_states import STAY
from incr_core.registry._requests import STOP, answer
from incr_core.storage import copy_of, located, numbers_in, remove, storage

__all__ = ["RunDirectory"]


class RunDirectory(Committing):
    """A run on disk: commits, reading of versions, and rollback.

    `RunDirectory.create` opens the run for writing: it creates the folder, or resumes the run of the same job there,
    and
    holds the folder's lock until `close` or the end of the process. `RunDirectory.open` opens a run for reading,
    without
    the lock. Both first repair the state after a kill.

    Example:
        >>> import tempfile, torch
        >>> from incr_core.registry.ledger import SCHEMA
        >>> folder = tempfile.TemporaryDirectory()
        >>> job = 'name = "demo"'
        >>> with RunDirectory.create(folder.name, job, fingerprint="f00d") as run:
        ...     for value in (1.0, 2.0):
        ...         version = run.commit(
        ...             {"weight": torch.tensor(value)},
        ...             manifest={"increment": 0, "name": "2013-01-01"},
        ...             metrics=pa.table({"increment": [0]}),
        ...             ledger=SCHEMA.empty_table(),
        ...         )
        ...     run.promote(1)
        >>> run = RunDirectory.open(folder.name)
        >>> run.latest(), run.champion(), run.load()[0], run.load(2)[0]
        (2, 1, {'weight': tensor(1.)}, {'weight': tensor(2.)})
        >>> run.table("metrics").num_rows, run.table("metrics", first=2).num_rows
        (2, 1)
        >>> run.load(7)
        Traceback (most recent call last):
        ...
        incr_core.errors.VersionError: ...: no version 7; there are versions 1 to 2
        >>> folder.cleanup()
    """

    # Taking a run directory

    @classmethod
    def create(
        cls,
        path: str | Path,
        job_toml: str,
        fingerprint: str,
        *,
        keep: int | None = None,
        as_now: AsNow = as_written,
    ) -> Self:
        """Start the run of this job here, or resume it; refuse any other folder.

        Jobs with equal fingerprints are the same run.

        Args:
            path: The folder.
            job_toml: The job.
            fingerprint: The fingerprint of the job.
            keep: The number of the newest versions that keep their weights; None for all. The champion always keeps
                them; other
                versions keep the manifest and the tables.
            as_now: The conversion of a job stored by an earlier incr.

        Raises:
            RunDirectoryError: The folder contains other files, another job's run, a run that another process is
                writing, or one
                with an interrupted erasure.
            StorageError: The folder cannot be written.
        """
        run = cls(located(path), keep)
        run._take(job_toml, fingerprint, as_now)
        return run

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Look at the run here; repairs what a kill left, unless another process is writing the run."""
        run = cls(located(path), None)
        require_run(run.path)
        run._keep_states()
        if copy_of(run.path) is not None:  # of a commit in a store all is there, or nothing
            run._survey()
            return run
        # Where nothing can be written there is nothing to repair on disk either.
        with (
            contextlib.suppress(RunDirectoryError, StorageError),
            storage(run.path),
            run._lock.held(patience=0),
        ):
            run._survey()
            run._repair()
            return run
        run._survey()
        return run

    def _take(self, job_toml: str, fingerprint: str, as_now: AsNow) -> None:
        with storage(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise RunDirectoryError(f"{self.path}: expected a folder, found a file; choose another --out")
            refuse_foreign_files(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.take(lasting=True)
        answer(self.path, STOP)  # a request to an earlier run
        withdraw_detached(self.path)
        try:
            # Without commits no data can be lost, so a job that was refused or killed may be changed.
            begun = bool(numbers_in(self.path / "versions"))
            refuse_unfinished(self.path)
            if not begun:
                remove(self.path / "state")
            write_job(self.path, job_toml, fingerprint, begun=begun, as_now=as_now)
            with storage(self.path):
                (self.path / "versions").mkdir(exist_ok=True)
                (self.path / "state").mkdir(exist_ok=True)
            self._keep_states()
            self._survey()
            self._repair()
        except BaseException:
            self._lock.release()
            raise

    def _keep_states(self) -> None:
        """Keep the number of states that the job specifies."""
        wanted = self.job().get("publish", {}).get("states", STAY)
        self._versions.stay = self._states.stay = max(STAY, wanted)

    def close(self) -> None:
        """Fold the remaining versions, and release the lock."""
        if self._lock.taken:
            try:
                self._versions.fold()
            finally:
                self._lock.release()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.close()

    # Choosing

    def promote(self, version: int) -> None:
        """Make a version the champion until the next is published; versions are kept, and pinned ones unpinned."""
        self._versions.require(version)
        with self._lock.held():
            pin(self.path, None)
            # Also if it is the newest: its commit has recorded another champion if the gate has held it back.
            withdraw(self._versions.folder(self._versions.latest))
            make_champion(self.path, version, durable=True)

    def pin(self, version: int | None) -> None:
        """Keep a version as the champion until it is unpinned, independent of commits; None unpins it."""
        with self._lock.held():
            if version is not None:
                self.promote(version)
            pin(self.path, version)

    # Erasing

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock, with all files read again; raise RunDirectoryError if another process writes the run."""
        with self._lock.held():
            self._survey()
            self._repair()
            yield

    def stored(self, name: str) -> Iterator[tuple[Path, pa.Table]]:
        """Yield every file with rows of a table, and its verified rows."""
        return self._versions.history.stored(name)

    def rewrite(self, name: str, change: Callable[[pa.Table], tuple[pa.Table, int]]) -> int:
        """Change rows of a table in all files; `change` returns their number. Return the total number.

        Only for an erasure: committed data is not changed otherwise. After an interruption, repeat the call.
        """
        return self._versions.history.rewrite(name, change)

    # What a kill may have left

    def _survey(self) -> None:
        """Read the versions and states."""
        self._versions.survey()
        self._learned.survey()
        self._states.survey(self._versions.latest)

    def _repair(self) -> None:
        """Finish or undo interrupted changes; the caller holds the lock."""
        self._versions.repair()
        self._states.repair(self.champion())
