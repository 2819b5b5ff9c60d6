"""What a run has done so far: for its summary, and for a progress bar."""

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
    """What a progress bar may show after an increment."""

    increment: str
    rows: int
    rows_per_second: float
    metric: str
    value: float


@dataclass(slots=True)
class Totals:
    """Sums over all increments of a run; they survive commits and resumes.

    events: kind -> how many. diverged_in_a_row: of the last increments with rows to learn, how many diverged.
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
        """Add an increment. statistics: of the predictions scored. skipped: whether its rows are not learned, but in
        quarantine; aside: since they are set aside, and not since it has diverged.
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
        """Rows learned in a second, over the whole run."""
        return self.rows_learned / max(self.seconds, 1e-9)

    def summary(self, objective: Objective) -> dict[str, Any]:
        """The totals as summary.json gives them."""
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
