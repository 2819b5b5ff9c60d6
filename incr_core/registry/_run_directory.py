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
import threading
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from incr_core.errors import ArgumentError, RunDirectoryError, StorageError, VersionError
from incr_core.registry import ledger as ledgers
from incr_core.registry._champion import champion_of, make_champion, pin, pinned_to, withdraw
from incr_core.registry._commit import read_commit
from incr_core.registry._detached import withdraw_detached
from incr_core.registry._erased import refuse_unfinished
from incr_core.registry._history import FOLD
from incr_core.registry._job_claim import AsNow, as_written, refuse_foreign_files, require_run, write_job
from incr_core.registry._learned_once import LearnedOnce
from incr_core.registry._participant_states import STAY, States
from incr_core.registry._requests import STOP, answer
from incr_core.registry._versions import Versions
from incr_core.storage import copy_of, located, lock_of, numbers_in, remove, storage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RunDirectory"]


class RunDirectory:
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

    def __init__(self, path: Path, keep: int | None) -> None:
        """Nothing is looked at yet: `create` and `open` do."""
        if keep is not None and keep < 1:
            raise ArgumentError(f"keep: expected at least 1 or None, got {keep}")
        self.path = path
        self._keep = keep
        self._lock = lock_of(self.path)
        self._versions = Versions(self.path)
        self._learned = LearnedOnce(self._versions.history)
        self._states = States(self.path)
        self._turn = threading.RLock()  # a commit may be written in one thread, and tables read in another

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

    # Committing

    def commit(
        self,
        weights: Mapping[str, Tensor],
        *,
        manifest: Mapping[str, Any],
        metrics: pa.Table,
        ledger: pa.Table,
        duplicates: pa.Table | None = None,
        quarantine: pa.Table | None = None,
        events: pa.Table | None = None,
        clients: pa.Table | None = None,
        extra: Mapping[str, pa.Table] | None = None,
        extra_state: Mapping[str, Any] | None = None,
        state: Mapping[str, Any] | None = None,
        publish: bool = True,
        participants: Iterable[str] | None = None,
        retired: Iterable[str] = (),
        unsynced: Sequence[Path] = (),
    ) -> int:
        """Commit the next version with everything that belongs to it; return its number.

        Either all of it is there afterwards or, with an error or a kill, none. The numbers start at 1;
        `ledger` carries the same number. `extra` tables are kept as NAME.arrow beside the weights, as long as
        these, and so is `extra_state`, nested state that is no weight. `state` is the loop's, to resume from.
        `participants` (those in `ledger`, if None) may have saved a state for this version; of each one's states, and
        of the loop's, the last two stay (or as many as the job says, and the champion's), and none of those who have
        `retired`; what of them is `unsynced` is synced with the version. `publish` makes the version the champion,
        unless another is pinned; else that stays which is.

        Raises CheckpointError when a row was learned before.
        """
        if not self._lock.taken:
            raise RunDirectoryError(f"{self.path}: expected to be taken with create() before a commit")
        publish = publish and self.pinned() is None
        version = self.next_version()
        learned = self._learned.with_rows(ledger)
        tables = {"metrics": metrics, "ledger": ledger}
        others = {"duplicates": duplicates, "quarantine": quarantine, "events": events, "clients": clients}
        for name, table in others.items():
            if table is not None and table.num_rows:
                tables[name] = table
        own = {
            "version": version,
            "parent": self.latest(),
            "rows": ledgers.count(ledger),
            "published": publish,
            "serving": version if publish else self.champion(),
            **({"undone": self._versions.history.undone} if self._versions.history.undone else {}),
        }
        from incr_core.registry._version import write_version

        committed = write_version(
            self._versions.folder(version),
            weights,
            tables,
            own,
            manifest,
            extra=extra,
            extra_state=extra_state,
            state=state,
            needed=unsynced,
        )

        # The version is committed. What follows can be done again from it, by the next `create` or `open`.
        with self._turn:
            self._versions.committed(committed, tables)
            self._learned.take(learned)
            if publish:
                make_champion(self.path, version, durable=False)
            self._versions.prune(self._keep)
            if participants is None:
                participants = ledger["participant"].unique().to_pylist()
            self._states.committed(version, participants, self.champion())
            self._states.retire(retired)
            self._versions.fold(FOLD)
            self._lock.push()
        return version

    def restore(
        self, version: int, *, state: Callable[[dict[str, Any]], dict[str, Any]], events: pa.Table | None = None
    ) -> int:
        """Commit a version once more, as the next one, from which the run goes on; return its number.

        What was committed in between stays there, but counts no more: its rows are in no version, and are pending
        again. state: from the loop's state at that version to the one to go on from. events: what happened.

        Raises VersionError where the version has no weights, or no state to go on from, any more.
        """
        with self._lock.held():
            self._versions.require(version)
            there = self._versions.gone_on_from()
            if version not in there:
                known = f"versions with states: {', '.join(map(str, there))}"
                raise VersionError(
                    f"{self.path}: version {version}: expected the state to go on from, got none, since it is too old; "
                    f"{known}; publish.states says of how many it is kept"
                )
            folder, number = self._versions.folder(version), self.next_version()
            weights, before = self._versions.load(version)
            extra = {
                name.removesuffix(".arrow"): self.extra_table(version, name.removesuffix(".arrow"))
                for name in before["files"]
                if name.endswith(".arrow")
            }
            from incr_core.registry._version import read_state, write_version

            following = state(read_state(folder))
            with storage(self.path):
                copied = self._states.copy(version, number)
            own = {
                "version": number,
                "parent": self.latest(),
                "rows": 0,
                "published": True,
                "serving": number if self.pinned() is None else self.champion(),
                "restores": version,
                "undone": [*before.get("undone", []), [version + 1, number - 1]],
            }
            tables = {} if events is None or not events.num_rows else {"events": events}
            committed = write_version(
                self._versions.folder(number),
                weights,
                tables,
                own,
                {name: value for name, value in before.items() if name not in SET_ANEW},
                extra=extra,
                extra_state=self.extra_state(version),
                state=following,
                needed=copied,
            )
            with self._turn:
                self._versions.committed(committed, tables)
                self._learned.survey()
                if own["serving"] == number:
                    make_champion(self.path, number, durable=False)
                self._states.committed(number, self._states.holders(version), self.champion())
                self._lock.push()
            return number

    def require(self, version: int) -> None:
        """VersionError where a version is not there, or has no weights any more."""
        self._versions.require(version)

    # Choosing

    def promote(self, version: int) -> None:
        """Make a version the champion, until the next is published; none is lost, and no other is pinned any more."""
        self._versions.require(version)
        with self._lock.held():
            pin(self.path, None)
            if version != self._versions.latest:
                withdraw(self._versions.folder(self._versions.latest))
            make_champion(self.path, version, durable=True)

    def promoted_by_hand(self) -> bool:
        """Whether the champion is a version that was not published when it was committed."""
        champion = self.champion()
        return champion is not None and not read_commit(self._versions.folder(champion))[0]["published"]

    def pin(self, version: int | None) -> None:
        """Let a version stay the champion, whatever is committed; None: no more, so that the next one may be it."""
        with self._lock.held():
            if version is not None:
                self.promote(version)
            pin(self.path, version)

    def pinned(self) -> int | None:
        """The version that stays the champion, whatever is committed; None where there is none."""
        return pinned_to(self.path)

    # Reading

    def holder(self) -> str | None:
        """The process that learns here, as "pid 123 on HOST"; None where none does, whoever else takes a look."""
        return self._lock.holder()

    def holder_here(self) -> int | None:
        """The id of that process, if it is one of this host."""
        return self._lock.holder_here()

    def next_version(self) -> int:
        """The number the next commit will have."""
        return self._versions.latest + 1

    def latest(self) -> int | None:
        """The newest version, from which a run goes on; None before the first."""
        return self._versions.latest or None

    def champion(self) -> int | None:
        """The published version, as of now; None before the first."""
        return champion_of(self.path)

    def versions(self) -> list[dict[str, Any]]:
        """The manifests, oldest first, each with `champion` and `has_weights` (False once pruned)."""
        return self._versions.manifests()

    def load(self, version: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weights and manifest of a version, the champion if none is named, verified byte for byte.

        Raises VersionError where there is no such version, CheckpointError naming the damaged file and the
        versions that are intact.
        """
        return self._versions.load(version)

    def extra_state(self, version: int) -> dict[str, Any]:
        """What modules kept besides tensors at the commit of a version, verified; of most models nothing."""
        from incr_core.registry._version import read_extra_state

        return read_extra_state(self._versions.folder(version))

    def extra_table(self, version: int, name: str) -> pa.Table:
        """One of the tables that are kept beside a version's weights, verified."""
        from incr_core.registry._version import read_extra_table

        self._versions.require(version)
        return read_extra_table(self._versions.folder(version), name)

    def table(self, name: str, first: int = 1, last: int | None = None, *, undone: bool = False) -> pa.Table:
        """The rows of one of the run's tables (see above), of all versions or of some.

        undone: also of those that were rolled back.
        """
        with self._turn:
            return self._versions.history.table(name, first, last, undone=undone)

    def job(self) -> dict[str, Any]:
        """The job as resolved."""
        return tomllib.loads((self.path / "job.toml").read_text())

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


SET_ANEW = frozenset(
    {"schema", "version", "parent", "rows", "published", "serving", "undone", "restores", "created"}
    | {"model_sha256", "files", "tables", "pairs", "extra_state", "gate"}
)
"""Keys of a manifest that are of one commit, and not of what is in it."""
