"""The versions of a run: those with weights, the champion, and the pruning of old ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from incr_core.errors import CheckpointError, VersionError
from incr_core.registry._champion import CHAMPION, champion_of, is_withdrawn, make_champion
from incr_core.registry._commit import STATE, drop_weights, has_weights, read_commit
from incr_core.registry._history import TRIES, History
from incr_core.registry._participant_states import STAY
from incr_core.storage import remove

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Versions", "loop_state"]


class Versions:
    """The versions of the run in `directory`; `survey` reads the current files.

    Attributes:
        stay: The number of the newest versions for which the loop's state is kept, besides the champion.

    Example:
        >>> found = Versions(Path("/nowhere"))
        >>> found.survey()
        >>> found.latest, found.manifests()
        (0, [])
    """

    def __init__(self, directory: Path, stay: int = STAY) -> None:
        self.directory, self.stay = directory, stay
        self.history = History(directory)
        self._with_weights: list[int] = []
        self._pruned: list[int] = []  # without weights, but with a folder
        self._with_state: list[int] = []

    @property
    def latest(self) -> int:
        """The newest version; 0 before the first."""
        return self.history.latest

    def folder(self, version: int) -> Path:
        """Return the folder of a version, which need not exist."""
        return self.history.folder(version)

    def survey(self) -> None:
        """Read the current files."""
        folders = self.history.survey()
        self._with_weights = [version for version in folders if has_weights(self.folder(version))]
        self._pruned = sorted({*folders} - {*self._with_weights})
        self._with_state = [version for version in self._with_weights if (self.folder(version) / STATE).exists()]

    def repair(self) -> None:
        """Finish or undo interrupted changes; the caller holds the lock."""
        for stale in (self.directory / "versions").glob(".tmp-*"):
            remove(stale)
        for version in self._pruned:
            drop_weights(self.folder(version))
        self.history.segments.tidy()
        self.fold()
        if not self.latest:
            remove(self.directory / CHAMPION)
        elif (serving := self._serving()) is not None and champion_of(self.directory) != serving:
            make_champion(self.directory, serving, durable=True)
        self._drop_states()

    def _serving(self) -> int | None:
        """Return the champion after the last commit; None if another was chosen since then, or if it does not exist."""
        if is_withdrawn(self.folder(self.latest)):
            return None
        # Versions committed before manifests recorded the champion were never pinned.
        serving: int | None = read_commit(self.folder(self.latest))[0].get("serving", self.latest)
        return serving if serving in self._with_weights else None

    def committed(self, manifest: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> None:
        """Record the commit of the next version."""
        self.history.committed(manifest, tables)
        self._with_weights.append(self.latest)
        self._with_state.append(self.latest)

    def _drop_states(self) -> None:
        """Remove the loop's states of versions from which a run can no longer continue."""
        champion = champion_of(self.directory)
        for version in [old for old in self._with_state[: -self.stay] if old != champion]:
            remove(self.folder(version) / STATE)
            self._with_state.remove(version)

    def gone_on_from(self) -> list[int]:
        """Return the versions from which a run can continue, i.e. those with the loop's state."""
        return [version for version in self._with_state if version in self._with_weights]

    @property
    def with_weights(self) -> list[int]:
        """The versions that have their weights, oldest first."""
        return list(self._with_weights)

    def prune(self, keep: int | None) -> None:
        """Keep weights only for the newest `keep` versions and the champion, and states for fewer."""
        self._drop_states()
        if keep is not None:
            kept = {*self._with_weights[-keep:], champion_of(self.directory)}
            for version in [old for old in self._with_weights if old not in kept]:
                drop_weights(self.folder(version))
                self._with_weights.remove(version)
                self._pruned.append(version)

    def fold(self, least: int = 1) -> None:
        """Fold the versions after the last segment into a new one, if there are at least `least`.

        Pruned versions then need no folder.
        """
        if len(self.history.behind) >= least:
            self.history.fold()
        for version in [pruned for pruned in self._pruned if pruned <= self.history.segments.last]:
            remove(self.folder(version))
            self._pruned.remove(version)

    def manifests(self) -> list[dict[str, Any]]:
        """Return the manifests, oldest first, each with `champion` and `has_weights` (False once pruned)."""
        champion, whole = champion_of(self.directory), set(self._with_weights)
        return [
            {**manifest, "champion": manifest["version"] == champion, "has_weights": manifest["version"] in whole}
            for manifest in self.history.manifests()
        ]

    def load(self, version: int | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Load the weights and manifest of a version, by default the champion, verified byte for byte."""
        if version is not None:
            return self._load(version)
        champion = champion_of(self.directory)
        for _ in range(TRIES):
            if champion is None:
                break
            try:
                return self._load(champion)
            except (CheckpointError, VersionError):
                # The writer of the run may have published another version meanwhile, and pruned this one.
                before, champion = champion, champion_of(self.directory)
                if champion == before:
                    raise
        if champion is not None:
            return self._load(champion)
        if self.latest:
            raise CheckpointError(
                f"{self.directory / CHAMPION}: expected the number of a version, found none; name one with "
                "`incr promote`"
            )
        raise VersionError(f"{self.directory}: no version yet; let the run commit one")

    def _load(self, version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        from incr_core.registry._version import is_intact, read_version

        self.require(version)
        try:
            return read_version(self.folder(version))
        except CheckpointError as error:
            intact = [str(other) for other in reversed(self._with_weights) if is_intact(self.folder(other))]
            remedy = f"intact versions: {', '.join(intact)}" if intact else "no other version is intact"
            raise CheckpointError(f"version {version} is damaged: {error}; {remedy}") from error

    def require(self, version: int) -> None:
        """Refuse a version that does not exist or no longer has weights."""
        # A version committed since the last survey counts too.
        if has_weights(self.folder(version)) or version in self._with_weights:
            return
        if 1 <= version <= self.latest:
            there = f"versions with weights: {_in_words(self._with_weights)}"
            raise VersionError(f"{self.directory}: version {version}: its weights were pruned; {there}")
        there = f"there are versions {_in_words([*range(1, self.latest + 1)])}" if self.latest else "there is none yet"
        raise VersionError(f"{self.directory}: no version {version}; {there}")


def loop_state(directory: Path, version: int) -> Any:
    """Read the loop's state at a version that still has one, verified.

    Example:
        >>> loop_state(Path("/nowhere"), 3)
        Traceback (most recent call last):
        ...
        incr_core.errors.CheckpointError: /nowhere/versions/3/state.zip: expected a file, found none; ...
    """
    from incr_core.registry._version import read_state

    return read_state(directory / "versions" / str(version))


def _in_words(numbers: list[int]) -> str:
    """Format [1, 2, 3, 7] as "1 to 3, 7"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    return ", ".join(" to ".join(map(str, span)) for span in spans)
