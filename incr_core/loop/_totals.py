"""Totals of a run so far, for its summary and for progress reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from incr_core import metrics
from incr_core.metrics import Statistics
from incr_core.objectives import Objective
from incr_core.rounds import Counts, Round

__all__ = ["Progress", "Totals"]


@dataclass(slots=True)
class Progress:
    """Progress after an increment, for display."""

    increment: str
    rows: int
    rows_per_second: float
    metric: str
    value: float


@dataclass(slots=True)
class Totals:
    """Sums over all increments of a run; they survive commits and resumes.

    Attributes:
        events: Number of events, by kind.
        diverged_in_a_row: Number of consecutive diverged increments among the last ones with rows to learn.
    """

    increments: int = 0
    rows_learned: int = 0
    rows_predicted: int = 0
    rows_quarantined: int = 0
    rows_duplicate: int = 0
    rows_dropped: int = 0
    files_quarantined: int = 0
    bytes_exchanged: int = 0
    seconds: float = 0.0
    statistics: Statistics = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    diverged_in_a_row: int = 0

    def add(self, rows: Counts, learned: Round, statistics: Statistics, *, skipped: bool, aside: bool) -> None:
        """Add an increment.

        Args:
            rows: Its counts.
            learned: Losses and costs of learning.
            statistics: Statistics of the predictions scored.
            skipped: Whether its rows are quarantined instead of learned.
            aside: Whether the reason is that they are set aside, not divergence.
        """
        if skipped:
            self.rows_quarantined += rows.labelled
            self.diverged_in_a_row += not aside
        elif rows.labelled:
            self.rows_learned += rows.labelled
            self.diverged_in_a_row = 0
        self.increments += 1
        self.bytes_exchanged += learned.bytes_exchanged
        self.statistics = metrics.add(self.statistics, statistics)
        self.rows_predicted += rows.predicted
        self.rows_quarantined += rows.bad
        self.rows_duplicate += rows.duplicates
        self.rows_dropped += rows.dropped

    @property
    def rows_per_second(self) -> float:
        """Rows learned per second, over the whole run."""
        return self.rows_learned / max(self.seconds, 1e-9)

    def summary(self, objective: Objective) -> dict[str, Any]:
        """Return the totals for summary.json."""
        return {
            "increments": self.increments,
            "rows_learned": self.rows_learned,
            "rows_predicted": self.rows_predicted,
            "rows_quarantined": self.rows_quarantined,
            "files_quarantined": self.files_quarantined,
            "rows_duplicate": self.rows_duplicate,
            **({"rows_dropped": self.rows_dropped} if self.rows_dropped else {}),
            "events": self.events,
            "rows_per_second": round(self.rows_per_second, 1),
            "main_metric": objective.main_metric,
            "prequential": objective.metrics(self.statistics) if self.statistics else {},
            "bytes_exchanged": self.bytes_exchanged,
            "wall_seconds": round(self.seconds, 3),
        }
