"""The run directory and its versions: the whole truth of a run, readable by other tools.

    DIR/job.toml                 the job as resolved; its first line marks the folder as ours
    DIR/versions/N/              model.safetensors, manifest.json, metrics.parquet, ledger.parquet,
                                 duplicates.parquet (as the ledger) when rows came that were learned before,
                                 quarantine.parquet when rows were refused, events.parquet when something else
                                 happened, and whatever the engine adds
    DIR/champion                 the number of the published version
    DIR/metrics.parquet, ...     the versions' tables so far, in one file each
    DIR/state/PARTICIPANT/N/     what each participant needs to resume from version N

A commit is one rename: `versions/.tmp-N` becomes `versions/N`. Everything outside `versions/` follows from
what is inside, so whatever a kill leaves behind, the next `create` or `open` puts right.
"""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
from torch import Tensor

from incr_core.errors import ArgumentError, CheckpointError, RunDirectoryError, StorageError, VersionError
from incr_core.registry import ledger as ledgers
from incr_core.registry._erased import refuse_unfinished
from incr_core.registry._job_claim import claim, refuse_foreign_files, require_run
from incr_core.registry._participant_states import States
from incr_core.registry._version import (
    has_weights,
    is_intact,
    read_extra_state,
    read_manifest,
    read_part,
    read_version,
    rewrite_part,
    write_version,
)
from incr_core.storage import GrowingTable, Lock, numbers_in, remove, storage, write_atomically

__all__ = ["RunDirectory", "champion_of"]

TABLES = ("metrics", "ledger", "duplicates", "quarantine", "events")


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
    ...     run.rollback(1)
    >>> run = RunDirectory.open(folder.name)
    >>> run.latest(), run.champion(), run.load()[0], run.load(2)[0]
    (2, 1, {'weight': tensor(1.)}, {'weight': tensor(2.)})
    >>> run.table("metrics").num_rows
    2
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
        self._lock = Lock(self.path / ".lock")
        self._tables = {name: GrowingTable(self.path / f"{name}.parquet") for name in TABLES}
        self._covered = ledgers.Coverage()
        self._versions: list[int] = []
        self._with_weights: list[int] = []
        self._states = States(self.path)

    # Taking a run directory

    @classmethod
    def create(cls, path: str | Path, job_toml: str, fingerprint: str, *, keep: int | None = None) -> Self:
        """Start the run of this job here, or resume it; refuse any other folder.

        Jobs with equal fingerprints are the same run. keep: how many of the newest versions keep their weights (None:
        all). The champion always does, and so does every version's manifest and tables.

        Raises RunDirectoryError when the folder holds something else, another job's run, a run that another process is
        writing, or one with an erasure that was interrupted; StorageError when it cannot be written.
        """
        run = cls(Path(path), keep)
        run._take(job_toml, fingerprint)
        return run

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Look at the run here; repairs what a kill left, unless another process is writing the run."""
        run = cls(Path(path), None)
        require_run(run.path)
        # Where nothing can be written there is nothing to repair on disk either: tables are completed in
        # memory.
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

    def _take(self, job_toml: str, fingerprint: str) -> None:
        with storage(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise RunDirectoryError(f"{self.path}: expected a folder, found a file; choose another --out")
            refuse_foreign_files(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.take()
        try:
            # Where nothing is committed there is nothing to lose: a job that was refused or killed may be changed.
            begun = bool(numbers_in(self.path / "versions"))
            refuse_unfinished(self.path)
            if not begun:
                remove(self.path / "state")
            claim(self.path, job_toml, fingerprint, begun=begun)
            with storage(self.path):
                (self.path / "versions").mkdir(exist_ok=True)
                (self.path / "state").mkdir(exist_ok=True)
            self._survey()
            self._repair()
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Write the tables out whole and free the lock."""
        if self._lock.taken:
            try:
                for table in self._tables.values():
                    table.write()
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
        extra: Mapping[str, pa.Table] | None = None,
        extra_state: Mapping[str, Any] | None = None,
        publish: bool = True,
        participants: Iterable[str] | None = None,
    ) -> int:
        """Commit the next version with everything that belongs to it; return its number.

        Either all of it is there afterwards or, with an error or a kill, none. The numbers start at 1;
        `ledger` carries the same number. `extra` tables are kept as NAME.arrow beside the weights, as long as
        these, and so is `extra_state`, nested state that is no weight. `participants` (those in `ledger`, if None)
        may have saved a state for this version; of each one's states the last two stay. `publish` makes the version
        the champion. Raises CheckpointError when a row was learned before.
        """
        if not self._lock.taken:
            raise RunDirectoryError(f"{self.path}: expected to be taken with create() before a commit")
        version = self.next_version()
        covered = self._learned_once(ledger)
        parts = {"metrics": metrics, "ledger": ledger}
        for name, part in (("duplicates", duplicates), ("quarantine", quarantine), ("events", events)):
            if part is not None and part.num_rows:
                parts[name] = part
        tables = {f"{name}.arrow": table for name, table in (extra or {}).items()}
        tables |= {f"{name}.parquet": part for name, part in parts.items()}
        own = {
            "version": version,
            "parent": self.latest(),
            "rows": ledgers.count(ledger),
            "published": publish,
        }
        write_version(self._folder(version), weights, tables, own, manifest, extra_state or {})

        # The version is committed. What follows can be done again from it, by the next `create` or `open`.
        self._versions.append(version)
        self._with_weights.append(version)
        self._covered = covered
        for name, part in parts.items():
            if part.num_rows:
                self._tables[name].add(part, version)
        if publish:
            self._publish(version)
        for table in self._tables.values():
            table.write_if_cheap()
        self._prune()
        if participants is None:
            participants = ledger["participant"].unique().to_pylist()
        self._states.committed(version, participants)
        return version

    def _learned_once(self, part: pa.Table) -> ledgers.Coverage:
        try:
            return self._covered.extended(part)
        except CheckpointError:
            # The coverage has forgotten who learned the row; the whole ledger names both.
            if self.table("ledger").num_rows:
                ledgers.check(pa.concat_tables([self.table("ledger"), part]))
            raise

    def _publish(self, version: int) -> None:
        write_atomically(self.path / "champion", f"{version}\n".encode())

    def rollback(self, version: int) -> None:
        """Make another version the champion; none is lost, and the run goes on from `latest`."""
        self._require(version)
        with self._lock.held():
            latest = self._versions[-1]
            if version != latest:
                # Tells a champion set back on purpose from one that a kill kept from moving on.
                write_atomically(self._folder(latest) / "withdrawn", b"")
            self._publish(version)

    def _prune(self) -> None:
        if self._keep is not None:
            kept = {*self._with_weights[-self._keep :], self.champion()}
            for version in [old for old in self._with_weights if old not in kept]:
                for file in self._folder(version).iterdir():
                    if file.suffix in (".safetensors", ".arrow"):
                        remove(file)
                self._with_weights.remove(version)

    # Reading

    def next_version(self) -> int:
        """The number the next commit will have."""
        return (self.latest() or 0) + 1

    def latest(self) -> int | None:
        """The newest version, from which a run goes on; None before the first."""
        return self._versions[-1] if self._versions else None

    def champion(self) -> int | None:
        """The published version, as of now; None before the first."""
        return champion_of(self.path)

    def versions(self) -> list[dict[str, Any]]:
        """The manifests, oldest first, each with `champion` and `has_weights` (False once pruned)."""
        champion = self.champion()
        return [
            {
                **read_manifest(self._folder(version)),
                "champion": version == champion,
                "has_weights": version in self._with_weights,
            }
            for version in self._versions
        ]

    def load(self, version: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weights and manifest of a version, the champion if none is named, verified byte for byte.

        Raises VersionError where there is no such version, CheckpointError naming the damaged file and the
        versions that are intact.
        """
        chosen = self.champion() if version is None else version
        if chosen is None and self._versions:
            raise CheckpointError(
                f"{self.path / 'champion'}: expected the number of a version, found none; name one with `incr rollback`"
            )
        if chosen is None:
            raise VersionError(f"{self.path}: no version yet; let the run commit one")
        self._require(chosen)
        try:
            return read_version(self._folder(chosen))
        except CheckpointError as error:
            intact = [str(other) for other in reversed(self._with_weights) if is_intact(self._folder(other))]
            remedy = f"intact versions: {', '.join(intact)}" if intact else "no other version is intact"
            raise CheckpointError(f"version {chosen} is damaged: {error}; {remedy}") from error

    def extra_state(self, version: int) -> dict[str, Any]:
        """What modules kept besides tensors at the commit of a version, verified; of most models nothing."""
        return read_extra_state(self._folder(version))

    def part(self, version: int, file: str) -> pa.Table:
        """One of a version's own tables, verified: metrics.parquet, ledger.parquet, an extra NAME.arrow."""
        if version not in self._versions:
            self._require(version)
        return read_part(self._folder(version), file)

    def table(self, name: str) -> pa.Table:
        """All rows so far of "metrics", "ledger", "duplicates", "quarantine" or "events"."""
        return self._tables[name].table()

    def job(self) -> dict[str, Any]:
        """The job as resolved."""
        return tomllib.loads((self.path / "job.toml").read_text())

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, nobody else writes the run, and all that is there is known; RunDirectoryError where somebody does."""
        with self._lock.held():
            self._survey()
            self._repair()
            yield

    def rewrite(self, name: str, change: Callable[[pa.Table], tuple[pa.Table, int]]) -> int:
        """Change a table, in every version and in the whole; `change` says in how many rows. Returns that of the whole.

        For an erasure: what is committed is not changed otherwise. The versions' part comes first, so that the same
        call finishes what a kill interrupted.
        """
        file = f"{name}.parquet"
        for version in self._versions:
            folder = self._folder(version)
            if (folder / file).exists():
                rewrite_part(folder, file, change)
        table = self._tables[name]
        if not table.table().num_rows:
            return 0
        changed, count = change(table.table())
        if count:
            table.replace(changed)
            table.write()
        return count

    def _folder(self, version: int) -> Path:
        return self.path / "versions" / str(version)

    def _require(self, version: int) -> None:
        """Refuse a version that is not there, or has no weights any more."""
        # A version committed since we looked counts too.
        if has_weights(self._folder(version)) or version in self._with_weights:
            return
        if version in self._versions:
            there = f"versions with weights: {_spans(self._with_weights)}"
            raise VersionError(f"{self.path}: version {version}: its weights were pruned; {there}")
        there = f"there are versions {_spans(self._versions)}" if self._versions else "there is none yet"
        raise VersionError(f"{self.path}: no version {version}; {there}")

    # What a kill may have left

    def _survey(self) -> None:
        """Read what is there: versions, tables completed from the versions' parts, states."""
        self._versions = numbers_in(self.path / "versions")
        self._with_weights = [version for version in self._versions if has_weights(self._folder(version))]
        for name, table in self._tables.items():
            table.read(latest=self.latest() or 0)
            for version in self._versions:
                if version > table.version and (self._folder(version) / f"{name}.parquet").exists():
                    table.add(self.part(version, f"{name}.parquet"), version)
        self._covered = ledgers.Coverage()
        if self.table("ledger").num_rows:
            self._covered = self._covered.extended(self.table("ledger"))
        self._states.survey(self._versions)

    def _repair(self) -> None:
        """Finish or undo what a kill interrupted; the caller holds the lock."""
        for stale in (self.path / "versions").glob(".tmp-*"):
            remove(stale)
        self._states.repair()
        for table in self._tables.values():
            table.write()
        if not self._versions:
            remove(self.path / "champion")
            return
        latest, champion = self._versions[-1], self.champion()
        published = read_manifest(self._folder(latest))["published"]
        withdrawn = (self._folder(latest) / "withdrawn").exists()
        if champion != latest and published and not withdrawn:
            self._publish(latest)


def champion_of(folder: Path) -> int | None:
    """The published version of the run in a folder, as of now, with no look at anything else; None before the first.

    >>> champion_of(Path("/nowhere")) is None
    True
    """
    try:
        return int((folder / "champion").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _spans(numbers: list[int]) -> str:
    """[1, 2, 3, 7] as "1 to 3, 7"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    return ", ".join(" to ".join(map(str, span)) for span in spans)
