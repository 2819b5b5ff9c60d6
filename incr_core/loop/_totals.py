"""What a run has done so far: for its summary, and for a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from incr_core import metrics
from incr_core.metrics import Statistics
from incr_core.objectives import Objective
from incr_core.rounds import Arrival, Round

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
    files_quarantined: int = 0
    bytes_exchanged: int = 0
    seconds: float = 0.0
    statistics: Statistics = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    diverged_in_a_row: int = 0

    def add(self, arrivals: Sequence[Arrival], learned: Round, statistics: Statistics, *, diverged: bool) -> None:
        """Add an increment. statistics: those of all arrivals; diverged: whether its rows were skipped for that."""
        labelled = sum(arrival.labelled for arrival in arrivals)
        if diverged:
            self.rows_quarantined += labelled
            self.diverged_in_a_row += 1
        elif labelled:
            self.rows_learned += labelled
            self.diverged_in_a_row = 0
        self.increments += 1
        self.bytes_exchanged += learned.bytes_exchanged
        self.statistics = metrics.add(self.statistics, statistics)
        for arrival in arrivals:
            self.rows_predicted += arrival.predicted
            self.rows_quarantined += len(arrival.bad)
            self.rows_duplicate += arrival.duplicates.numel()

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
            "events": self.events,
            "rows_per_second": round(self.rows_per_second, 1),
            "main_metric": objective.main_metric,
            "prequential": objective.metrics(self.statistics) if self.statistics else {},
            "bytes_exchanged": self.bytes_exchanged,
            "wall_seconds": round(self.seconds, 3),
        }
