"""The states that participants save to resume from a version; the last two of each participant are kept."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable
from pathlib import Path

from incr_core.storage import numbers_in, remove

__all__ = ["STAY", "States", "state_folder", "states_of"]

STAY = 2
"""States kept per participant: one that skipped some versions resumes from its own last state."""


def state_folder(directory: str | Path, participant: str, version: int) -> Path:
    """The folder of a participant's state at `version`; a participant may have any text as its name.

    >>> str(state_folder("runs/flights", "client/AA", 3))
    'runs/flights/state/client%2FAA/3'
    """
    name = urllib.parse.quote(participant, safe="").replace(".", "%2E")
    return Path(directory, "state", name, str(version))


def states_of(directory: str | Path, version: int) -> list[tuple[str, Path]]:
    """The states saved here for `version`: participants' names and folders, one per shard.

    >>> states_of("/nowhere", 3)
    []
    """
    files = sorted(Path(directory, "state").glob(f"*/{version}/**/state.json"))
    return [(urllib.parse.unquote(file.relative_to(directory).parts[1]), file.parent) for file in files]


class States:
    """The saved states of a run's participants, of which old ones are removed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run:
    ...     states = States(Path(run))
    ...     for version in (1, 2, 3):
    ...         state_folder(run, "loop", version).mkdir(parents=True)
    ...         states.committed(version, ["loop"])
    ...     numbers_in(state_folder(run, "loop", 0).parent)
    [2, 3]
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._saved: dict[str, list[int]] = {}

    def survey(self, latest: int) -> None:
        """List the saved states; one saved for a version that was never committed does not count."""
        folder = self._directory / "state"
        for participant in folder.iterdir() if folder.exists() else ():
            self._saved[participant.name] = [number for number in numbers_in(participant) if number <= latest]

    def repair(self) -> None:
        """Remove states that do not count, and all but the last two."""
        for participant, saved in self._saved.items():
            kept = {str(version) for version in saved[-STAY:]}
            for state in (self._directory / "state" / participant).iterdir():
                if state.name not in kept:
                    remove(state)
            del saved[:-STAY]

    def committed(self, version: int, participants: Iterable[str]) -> None:
        """Remove old states of those participants that have saved one for this committed version."""
        for participant in participants:
            folder = state_folder(self._directory, participant, version)
            if folder.exists():
                saved = self._saved.setdefault(folder.parent.name, [])
                saved.append(version)
                while len(saved) > STAY:
                    remove(folder.parent / str(saved.pop(0)))

    def retire(self, participants: Iterable[str]) -> None:
        """Remove all states of participants who will not learn again."""
        for participant in participants:
            folder = state_folder(self._directory, participant, 0).parent
            self._saved.pop(folder.name, None)
            remove(folder)
