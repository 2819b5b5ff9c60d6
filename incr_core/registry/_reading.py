"""Reading of a run directory: versions, the champion, tables, and the current writer."""

from __future__ import annotations

import threading
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from incr_core.registry._champion import champion_of, pinned_to
from incr_core.registry._commit import read_commit
from incr_core.registry._versions import Versions
from incr_core.storage import lock_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Reading"]


class Reading:
    """The read-only part of a run directory; `path` is the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = lock_of(self.path)
        self._versions = Versions(self.path)
        self._turn = threading.RLock()  # a commit may be written in one thread while tables are read in another

    def holder(self) -> str | None:
        """Return the process that writes the run, as "pid 123 on HOST"; None if there is none; readers do not count."""
        return self._lock.holder()

    def holder_here(self) -> int | None:
        """Return the id of that process, if it is on this host."""
        return self._lock.holder_here()

    def next_version(self) -> int:
        """The number of the next commit."""
        return self._versions.latest + 1

    def latest(self) -> int | None:
        """The newest version, from which a run continues; None before the first."""
        return self._versions.latest or None

    def champion(self) -> int | None:
        """Return the current published version; None before the first."""
        return champion_of(self.path)

    def versions(self) -> list[dict[str, Any]]:
        """Return the manifests, oldest first, each with `champion` and `has_weights` (False once pruned)."""
        return self._versions.manifests()

    def manifests(self, first: int, last: int) -> list[dict[str, Any]]:
        """Return the manifests of a range of versions as committed, oldest first."""
        with self._turn:
            return self._versions.history.manifests(first, last)

    def undone(self) -> list[list[int]]:
        """Return the first and the last version of each range that was rolled back."""
        with self._turn:
            return list(self._versions.history.undone)

    def load(self, version: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Load the weights and manifest of a version, by default the champion, verified byte for byte.

        Raises:
            VersionError: There is no such version.
            CheckpointError: A file is damaged; the message names it and the intact versions.
        """
        return self._versions.load(version)

    def extra_state(self, version: int) -> dict[str, Any]:
        """Load the state of modules besides tensors at a version, verified; empty for most models."""
        from incr_core.registry._version import read_extra_state

        return read_extra_state(self._versions.folder(version))

    def extra_table(self, version: int, name: str) -> pa.Table:
        """Load one of the tables stored beside a version's weights, verified."""
        from incr_core.registry._version import read_extra_table

        self._versions.require(version)
        return read_extra_table(self._versions.folder(version), name)

    def table(self, name: str, first: int = 1, last: int | None = None, *, undone: bool = False) -> pa.Table:
        """Return the rows of one of the run's tables, such as "metrics", of all versions or a range.

        Args:
            name: The table.
            first: The first version.
            last: The last version; None for the newest.
            undone: Whether to include versions that were rolled back.
        """
        with self._turn:
            return self._versions.history.table(name, first, last, undone=undone)

    def job(self) -> dict[str, Any]:
        """Return the resolved job."""
        return tomllib.loads((self.path / "job.toml").read_text())

    def promoted_by_hand(self) -> bool:
        """Whether the champion is a version that was not published by its commit."""
        champion = self.champion()
        return champion is not None and not read_commit(self._versions.folder(champion))[0]["published"]

    def pinned(self) -> int | None:
        """Return the pinned version; None if there is none."""
        return pinned_to(self.path)

    def require(self, version: int) -> None:
        """Raise VersionError if a version does not exist or no longer has weights."""
        self._versions.require(version)
