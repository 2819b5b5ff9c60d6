"""The totals of a run, from its table of metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["WORK", "RunTotals"]

WORK = ("predicting", "learning", "exchanging")
"""The phases of an increment that take time one after another; each has a column `seconds_PHASE`. The exchanges in
`seconds_hidden` overlap with learning, so they are no phase.
"""


@dataclass(frozen=True)
class RunTotals:
    """Totals over increments.

    rows_learned, rows_scored: sums over the increments. seconds: of work (`WORK`), without waiting for data. metrics:
    of all predictions up to the last of these increments, by name; those that are not known are left out.

    >>> columns = {"rows_labelled": [10, 30], "seconds_predicting": [1, 1], "seconds_learning": [2, 3]}
    >>> columns |= {"seconds_exchanging": [0, 1], "seconds_hidden": [None, 5.0], "total.auc": [None, 0.7]}
    >>> found = RunTotals.of(pa.table(columns))
    >>> found.rows_learned, found.seconds, found.rows_per_second, found.metrics
    (40, 8.0, 5.0, {'auc': 0.7})
    """

    rows_learned: int
    rows_scored: int
    seconds: float
    metrics: dict[str, float]

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        """The totals over the rows of a table of metrics."""
        last = table.slice(max(0, table.num_rows - 1)).to_pylist()
        return cls(
            rows_learned=int(_sum(table, "rows_labelled")),
            rows_scored=int(_sum(table, "rows_scored")),
            seconds=sum(_sum(table, f"seconds_{phase}") for phase in WORK),
            metrics={
                column.removeprefix("total."): value
                for row in last
                for column, value in row.items()
                if column.startswith("total.") and value is not None
            },
        )

    @property
    def rows_per_second(self) -> float | None:
        """Rows learned in a second of work; None where no work was measured."""
        return self.rows_learned / self.seconds if self.seconds else None


def _sum(table: pa.Table, column: str) -> float:
    """The sum of a column; 0 where the table does not have it."""
    return float(pc.sum(table[column]).as_py() or 0) if column in table.column_names else 0.0
