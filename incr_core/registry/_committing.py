"""Commits to a run directory: of learned rows, and of an earlier version again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from incr_core.errors import ArgumentError, RunDirectoryError, VersionError
from incr_core.registry import ledger as ledgers
from incr_core.registry._champion import make_champion
from incr_core.registry._history import FOLD
from incr_core.registry._learned_once import LearnedOnce
from incr_core.registry._participant_states import States
from incr_core.registry._reading import Reading
from incr_core.storage import storage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Committing"]

LEAST = 2
"""Versions that keep their weights however large they are."""


class Committing(Reading):
    """The part of a run directory that creates versions.

    path: where it is. keep: how many of the newest keep their weights (None: all), beside the champion.

    disk: how many bytes the directory may take before older versions lose their weights; None: any number. cleared: the
    versions that have lost them for that since `take_cleared`.
    """

    def __init__(self, path: Path, keep: int | None) -> None:
        if keep is not None and keep < 1:
            raise ArgumentError(f"keep: expected at least 1 or None, got {keep}")
        super().__init__(path)
        self._keep = keep
        self.disk: int | None = None
        self.cleared: list[int] = []
        self._learned = LearnedOnce(self._versions.history)
        self._states = States(self.path)

    def commit(
        self,
        weights: Mapping[str, Tensor],
        *,
        manifest: Mapping[str, Any],
        metrics: pa.Table,
        ledger: pa.Table,
        duplicates: pa.Table | None = None,
        dropped: pa.Table | None = None,
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
        """Commit the next version with all its data; return its number.

        After an error or a kill, either all of the data exists or none. The numbers start at 1. Of the states of each
        participant and of the loop, the last two are kept (or as many as the job says), and those of the champion. The
        version
        becomes the champion if it is published and no other version is pinned; otherwise the champion does not change.

        Args:
            weights: The weights.
            manifest: More entries of the manifest.
            metrics: Rows of the table of metrics.
            ledger: Rows of the ledger, with the number of the version.
            duplicates: Rows of the table of duplicates.
            quarantine: Rows of the table of bad rows.
            events: Rows of the table of events.
            clients: Rows of the table of clients.
            extra: Tables stored as NAME.arrow beside the weights, as long as these are kept.
            extra_state: Nested state that is not a weight, also kept as long as the weights.
            state: The loop's state, from which to resume.
            publish: Whether to publish the version.
            participants: The participants that may have saved a state for this version; those in `ledger` by default.
            retired: Participants whose states are removed.
            unsynced: Their files that must be synced with the version.

        Raises:
            CheckpointError: A row was learned before.
        """
        if not self._lock.taken:
            raise RunDirectoryError(f"{self.path}: expected to be taken with create() before a commit")
        publish = publish and self.pinned() is None
        version = self.next_version()
        learned = self._learned.with_rows(ledger)
        tables = {"metrics": metrics, "ledger": ledger}
        others = {"duplicates": duplicates, "dropped": dropped, "quarantine": quarantine}
        others |= {"events": events, "clients": clients}
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

        # The version is committed. The next `create` or `open` can repeat the following steps.
        with self._turn:
            self._versions.committed(committed, tables)
            self._learned.take(learned)
            if publish:
                make_champion(self.path, version, durable=False)
            self._versions.prune(self._keep)
            self._clear()
            if participants is None:
                participants = ledger["participant"].unique().to_pylist()
            self._states.committed(version, participants, self.champion())
            self._states.retire(retired)
            self._versions.fold(FOLD)
            self._lock.push()
        return version

    def _clear(self) -> None:
        """Let older versions go without weights until the directory takes no more of the disk than it may."""
        while self.disk is not None and len(there := self._versions.with_weights) > LEAST and self.bytes() > self.disk:
            self._versions.prune(max(LEAST, len(there) // 2))
            gone = [version for version in there if version not in self._versions.with_weights]
            self.cleared += gone
            if not gone:  # the champion is one of them
                break

    def bytes(self) -> int:
        """The size of the directory on disk."""
        return sum(
            (Path(folder) / name).stat().st_size
            for folder, _, names in os.walk(self.path)
            for name in names
            if (Path(folder) / name).exists()
        )

    def take_cleared(self) -> list[int]:
        """The versions whose weights were deleted to free space since the last call."""
        cleared, self.cleared = self.cleared, []
        return cleared

    def restore(
        self, version: int, *, state: Callable[[dict[str, Any]], dict[str, Any]], events: pa.Table | None = None
    ) -> int:
        """Commit an earlier version again, as the next one, from which the run continues; return its number.

        The versions in between are kept but no longer count: their rows are in no version and are pending again.

        Args:
            version: The earlier version.
            state: Maps the loop's state at that version to the state from which to continue.
            events: Rows of the table of events.

        Raises:
            VersionError: The version no longer has weights, or a state from which to continue.
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
            from incr_core.registry._version import read_state, write_version

            folder, number = self._versions.folder(version), self.next_version()
            weights, before = self._versions.load(version)
            extra = {
                name.removesuffix(".arrow"): self.extra_table(version, name.removesuffix(".arrow"))
                for name in before["files"]
                if name.endswith(".arrow")
            }
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


SET_ANEW = frozenset(
    {"schema", "version", "parent", "rows", "published", "serving", "undone", "restores", "created"}
    | {"model_sha256", "files", "tables", "pairs", "extra_state", "gate"}
)
"""The keys of a manifest that describe a commit and not its data."""
