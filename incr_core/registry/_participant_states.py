"""The saved states of participants, of which the newest and that of the champion are kept."""

from __future__ import annotations

import os
import shutil
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

from incr_core.storage import numbers_in, remove

__all__ = ["STAY", "States", "state_folder", "states_of"]

STAY = 2
"""The minimum number of states kept per participant; one that skipped versions resumes from its own last state."""


def state_folder(directory: str | Path, participant: str, version: int) -> Path:
    """Return the folder of a participant's state at `version`; the name of a participant may be any text.

    Example:
        >>> str(state_folder("runs/flights", "client/AA", 3))
        'runs/flights/state/client%2FAA/3'
    """
    name = urllib.parse.quote(participant, safe="").replace(".", "%2E")
    return Path(directory, "state", name, str(version))


def states_of(directory: str | Path, version: int) -> list[tuple[str, Path]]:
    """Return the states saved here for `version`: names and folders of participants, one per shard.

    Example:
        >>> states_of("/nowhere", 3)
        []
    """
    files = sorted(Path(directory, "state").glob(f"*/{version}/**/state.json"))
    return [(urllib.parse.unquote(file.relative_to(directory).parts[1]), file.parent) for file in files]


class States:
    """The saved states of a run's participants; old ones are removed.

    Attributes:
        stay: The number of the newest states of each participant that are kept.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as run:
        ...     states = States(Path(run))
        ...     for version in (1, 2, 3):
        ...         state_folder(run, "loop", version).mkdir(parents=True)
        ...         states.committed(version, ["loop"])
        ...     numbers_in(state_folder(run, "loop", 0).parent)
        [2, 3]
    """

    def __init__(self, directory: Path, stay: int = STAY) -> None:
        self._directory, self.stay = directory, stay
        self._saved: dict[str, list[int]] = {}

    def survey(self, latest: int) -> None:
        """List the saved states; one saved for a version that was never committed does not count."""
        folder = self._directory / "state"
        for participant in folder.iterdir() if folder.exists() else ():
            self._saved[participant.name] = [number for number in numbers_in(participant) if number <= latest]

    def repair(self, champion: int | None) -> None:
        """Remove states that do not count, and all but the newest and the champion's."""
        for participant, saved in self._saved.items():
            kept = self._kept(saved, champion)
            for state in (self._directory / "state" / participant).iterdir():
                if state.name not in map(str, kept):
                    remove(state)
            saved[:] = kept

    def _kept(self, saved: list[int], champion: int | None) -> list[int]:
        return [version for version in saved if version in saved[-self.stay :] or version == champion]

    def copy(self, version: int, to: int) -> list[Path]:
        """Copy all states of a version to another version that is about to be committed; return the new files."""
        made: list[Path] = []
        for participant, saved in self._saved.items():
            folder = self._directory / "state" / participant
            if version in saved:
                remove(folder / str(to))
                shutil.copytree(folder / str(version), folder / str(to), copy_function=_link)
                made += [folder, folder / str(to), *(folder / str(to)).rglob("*")]
        return made

    def holders(self, version: int) -> set[str]:
        """Return the participants that have a state of a version here."""
        return {urllib.parse.unquote(name) for name, saved in self._saved.items() if version in saved}

    def committed(self, version: int, participants: Iterable[str], champion: int | None = None) -> None:
        """Remove old states of the participants that have saved one for this committed version."""
        for participant in participants:
            folder = state_folder(self._directory, participant, version)
            if folder.exists():
                saved = self._saved.setdefault(folder.parent.name, [])
                saved.append(version)
                kept = self._kept(saved, champion)
                for old in saved:
                    if old not in kept:
                        remove(folder.parent / str(old))
                saved[:] = kept

    def retire(self, participants: Iterable[str]) -> None:
        """Remove all states of participants that will not learn again."""
        for participant in participants:
            folder = state_folder(self._directory, participant, 0).parent
            self._saved.pop(folder.name, None)
            remove(folder)


def _link(source: str, target: str) -> None:
    """Create a second name for a file or, if the storage does not support that, a copy.

    States are replaced, never modified, so both names may refer to one file.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
