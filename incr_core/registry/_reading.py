"""What is to be read in a run directory: versions, the champion, tables, and who writes it."""

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
    """The part of a run directory that changes nothing. path: where it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = lock_of(self.path)
        self._versions = Versions(self.path)
        self._turn = threading.RLock()  # a commit may be written in one thread, and tables read in another

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
        """The rows of one of the run's tables, such as "metrics", of all versions or of some.

        undone: also of those that were rolled back.
        """
        with self._turn:
            return self._versions.history.table(name, first, last, undone=undone)

    def job(self) -> dict[str, Any]:
        """The job as resolved."""
        return tomllib.loads((self.path / "job.toml").read_text())

    def promoted_by_hand(self) -> bool:
        """Whether the champion is a version that was not published when it was committed."""
        champion = self.champion()
        return champion is not None and not read_commit(self._versions.folder(champion))[0]["published"]

    def pinned(self) -> int | None:
        """The version that stays the champion, whatever is committed; None where there is none."""
        return pinned_to(self.path)

    def require(self, version: int) -> None:
        """VersionError where a version is not there, or has no weights any more."""
        self._versions.require(version)
