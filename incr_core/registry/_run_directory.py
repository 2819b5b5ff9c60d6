"""The run directory and its versions: the whole truth of a run, readable by other tools.

    DIR/job.toml                 the job as resolved; its first line marks the folder as ours
    DIR/versions/N/              a version: model.safetensors, and commit.zip with its manifest and tables (`_version`)
    DIR/champion                 the number of the published version
    DIR/pinned                   the same, where it is to stay so
    DIR/segments.json            which segments there are (`_segments`)
    DIR/metrics/*.parquet        segments of a table; also ledger, duplicates, quarantine, events, clients, manifests
    DIR/state/PARTICIPANT/N/     what each participant needs to resume from version N
    DIR/erased/*.parquet         addresses of rows that were erased
    DIR/detached.json            who holds a detached run, and how it ended (`_detached`)

A commit is one rename: `versions/.tmp-N` becomes `versions/N`. Every so many commits their tables are folded into a
segment; the folder of a version that has been pruned goes then. Everything outside `versions/` and the segments follows
from what is inside, so whatever a kill leaves behind, the next `create` or `open` puts right.
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
    """A run on disk: commit versions to it, read them back, roll back.

    `RunDirectory.create` takes the run for writing: it makes the folder, or resumes the run of the same job there, and
    holds the folder's lock until `close` or the death of the process. `RunDirectory.open` takes a look at a run
    without holding anything. Both first put right what a kill may have left.

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

        Jobs with equal fingerprints are the same run; as_now: how a job is read that an earlier incr has written.
        keep: how many of the newest versions keep their weights (None: all). The champion always does; of others the
        manifest and the tables stay.

        Raises RunDirectoryError when the folder holds something else, another job's run, a run that another process is
        writing, or one with an erasure that was interrupted; StorageError when it cannot be written.
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
        answer(self.path, STOP)  # what was asked of an earlier run
        withdraw_detached(self.path)
        try:
            # Where nothing is committed there is nothing to lose: a job that was refused or killed may be changed.
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
        """Keep as many states to go on from as the job says."""
        wanted = self.job().get("publish", {}).get("states", STAY)
        self._versions.stay = self._states.stay = max(STAY, wanted)

    def close(self) -> None:
        """Fold what is left to fold, and free the lock."""
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
        """Make a version the champion, until the next is published; none is lost, and no other is pinned any more."""
        self._versions.require(version)
        with self._lock.held():
            pin(self.path, None)
            if version != self._versions.latest:
                withdraw(self._versions.folder(self._versions.latest))
            make_champion(self.path, version, durable=True)

    def pin(self, version: int | None) -> None:
        """Let a version stay the champion, whatever is committed; None: no more, so that the next one may be it."""
        with self._lock.held():
            if version is not None:
                self.promote(version)
            pin(self.path, version)

    # Erasing

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, nobody else writes the run, and all that is there is known; RunDirectoryError where somebody does."""
        with self._lock.held():
            self._survey()
            self._repair()
            yield

    def stored(self, name: str) -> Iterator[tuple[Path, pa.Table]]:
        """Every file that has rows of a table, and these rows, verified."""
        return self._versions.history.stored(name)

    def rewrite(self, name: str, change: Callable[[pa.Table], tuple[pa.Table, int]]) -> int:
        """Change a table wherever it is; `change` says in how many rows. Returns how many there are in all.

        For an erasure: what is committed is not changed otherwise. The same call finishes what a kill interrupted.
        """
        return self._versions.history.rewrite(name, change)

    # What a kill may have left

    def _survey(self) -> None:
        """Read what is there: versions and states."""
        self._versions.survey()
        self._learned.survey()
        self._states.survey(self._versions.latest)

    def _repair(self) -> None:
        """Finish or undo what a kill interrupted; the caller holds the lock."""
        self._versions.repair()
        self._states.repair(self.champion())
