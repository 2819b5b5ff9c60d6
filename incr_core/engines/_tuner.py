"""The protocol of engines that learn several trials of a job and end the worse ones early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Outcome", "Report", "Trial", "Tuner"]

Report = Callable[[int, float], None]
"""Called by a trial after each increment, with the rows that it has learned and its prequential metric."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One set of settings to try.

    Attributes:
        number: Number of the trial; 0 is the job as it is written.
        settings: Settings on top of the job, "section.key=value".
    """

    number: int
    settings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a trial.

    Attributes:
        trial: The trial.
        rows: Rows learned when it ended.
        value: The prequential metric over these rows; None if it has reported none.
        fault: The error that ended it; None without one.
    """

    trial: Trial
    rows: int
    value: float | None
    fault: str | None = None


class Tuner(Protocol):
    """Learns trials, several at the same time."""

    def __call__(
        self,
        trials: Sequence[Trial],
        learn: Callable[[Trial, Report], None],
        *,
        rows: int,
        folder: Path,
        higher_is_better: bool,
        on_outcome: Callable[[Outcome], None],
    ) -> list[Outcome]:
        """Learn the trials up to `rows` rows each; end those early that are behind others after as many rows.

        Args:
            trials: The trials.
            learn: Learns one trial in any process, and reports after each increment. Called again for a trial that
                was interrupted, it continues from the last commit.
            rows: Rows after which a trial is complete.
            folder: Where the tuner keeps its own state. The same call with the same folder continues.
            higher_is_better: Whether higher values of the metric are better.
            on_outcome: Called in this process when a trial ends.

        Returns:
            The outcome of each trial, in their order.
        """
