"""The protocol of trackers, the commits that they receive, and the run that they follow."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from incr_core.job import Job
from incr_core.registry import copy_version

__all__ = ["Commit", "TrackedRun", "Tracker"]


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker follows.

    Attributes:
        name: The name of the job.
        baseline: The name of the baseline; "" for the run itself.
        path: The run directory; of a run at an address, its working copy.
        place: The run directory as a person knows it: a path, or an address.
        job: The resolved job.
        id: 32 hexadecimal digits that identify the run. A resumed run has the same id, and no other run has it.
    """

    name: str
    baseline: str
    path: Path
    place: str
    job: Job
    id: str

    def copy_version(self, version: int, folder: Path) -> bool:
        """Write a run directory that has only this version; `incr_core.Run(folder)` predicts with it.

        Returns:
            False if the version no longer has its weights (`publish.keep`). The folder may then hold a part of it.
        """
        return copy_version(self.path, version, folder)


@dataclass(frozen=True)
class Commit:
    """A committed version and the increments in it.

    Attributes:
        version: The number of the version.
        created: The time of the commit.
        champion: The version that is served after this commit; None if there is none.
        restores: The earlier version that this commit returns to after a rollback. The versions in between no longer
            count. None for a commit of learned increments.
        increments: A row of the table `metrics` for each increment.
        manifest: The manifest of the version.
    """

    version: int
    created: datetime
    champion: int | None
    restores: int | None
    increments: tuple[Mapping[str, Any], ...]
    manifest: Mapping[str, Any]

    def scalars(self) -> list[tuple[int, dict[str, float]]]:
        """Return the number of each increment, and its numbers.

        A name has its group before a slash: `metric/auc`, `loss/loss`, `rows_labelled`. NaN is left out.

        Example:
            >>> from datetime import UTC
            >>> row = {"increment": 4, "name": "2013-01-05", "metric.auc": 0.7, "loss.loss": math.nan, "late": None}
            >>> Commit(1, datetime.now(UTC), 1, None, (row,), {}).scalars()
            [(4, {'metric/auc': 0.7})]
        """
        return [
            (
                int(row["increment"]),
                {
                    name.replace(".", "/", 1): float(value)
                    for name, value in row.items()
                    if name != "increment"
                    and isinstance(value, int | float)
                    and not isinstance(value, bool)
                    and not math.isnan(value)
                },
            )
            for row in self.increments
        ]


class Tracker(ABC):
    """A destination of committed increments: `track.callbacks = ["module:Class"]` names a subclass.

    A thread makes the tracker after the first commit, and calls its methods one after another. An error of any method
    ends neither the thread nor the run. It is logged, the tracker is closed, and after 1 s, 2 s, 4 s, at most a minute,
    and at the end of the run, the thread makes another one, which starts behind `position`.

    Args:
        run: The run to follow.

    Attributes:
        run: The run to follow.

    Example:
        >>> class Lines(Tracker):
        ...     "A line of text for each increment, in a file."
        ...     def follow(self, commit):
        ...         with open(self.run.path.parent / "metrics.txt", "a") as file:
        ...             for step, numbers in commit.scalars():
        ...                 print(step, numbers["loss/loss"], file=file)
        >>> issubclass(Lines, Tracker)
        True
    """

    def __init__(self, run: TrackedRun) -> None:
        self.run = run

    def position(self) -> int | None:
        """Return the last version that the destination has completely; 0 if it has none.

        None, the default, leaves the position to `incr`: it is written to DIR/trackers after each delivery. A process
        that is killed between the two delivers that version once more. A destination that must not receive a version
        twice has to store its number together with the content, and return it here.
        """
        return None

    @abstractmethod
    def follow(self, commit: Commit) -> None:
        """Deliver a commit. Commits come in order. Those that were rolled back before their delivery are left out."""

    def serve(self, version: int) -> None:  # noqa: B027, most trackers have nothing to do
        """Note the champion: called when all commits are delivered, for the first champion and for each change."""

    def close(self, finished: bool | None) -> None:  # noqa: B027
        """Release the connection. Called once.

        Args:
            finished: True if the run has learned its stream to the end, False if it has ended before; all commits are
                delivered then. None after an error of this tracker, while the run may go on.
        """
