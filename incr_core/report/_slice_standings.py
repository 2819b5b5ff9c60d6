"""The standings of the slices of a run, the worst first, from the table of metrics."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from incr_core.report._course import Floats
from incr_core.report._standings import ERRORS, SPANS

__all__ = ["SliceStanding", "slice_standings"]

FEW = 30
"""Number of rows below which a value is mostly noise. Such slices come last."""


@dataclass(frozen=True)
class SliceStanding:
    """One slice.

    Attributes:
        slice: "COLUMN=VALUE", "COLUMN: others" or "COLUMN: null".
        rows: Rows scored so far.
        metric: The run's main metric.
        value: The metric over these rows; NaN where it is not defined.
        gap: Distance by which `value` is worse than the metric of all rows.
        recent: The mean of the metric over the newest increments that hold a tenth of these rows, and `FEW` at least.
    """

    slice: str
    rows: int
    metric: str
    value: float
    gap: float
    recent: float

    def document(self) -> dict[str, Any]:
        """The standing as JSON values, with None for unknown values."""
        return {key: None if isinstance(one, float) and math.isnan(one) else one for key, one in asdict(self).items()}


def slice_standings(table: pa.Table) -> list[SliceStanding]:
    """The slices in a table of metrics, the worst by the main metric first, those of few rows last.

    Example:
        >>> rows = [{"total.auc": 0.8, "slice_rows.o=JFK": 50, "slice.auc.o=JFK": 0.6,
        ...          "slice_total_rows.o=JFK": 50, "slice_total.auc.o=JFK": 0.6}]
        >>> [(one.slice, one.rows, round(one.gap, 2)) for one in slice_standings(pa.Table.from_pylist(rows))]
        [('o=JFK', 50, 0.2)]
    """
    prefix = "slice_total_rows."
    found = []
    for column in table.column_names:
        if not column.startswith(prefix):
            continue
        name = column.removeprefix(prefix)
        metric = next(
            column.split(".")[1]
            for column in table.column_names
            if column.startswith("slice_total.") and column.split(".", 2)[2] == name
        )
        whole, value = _last(_floats(table, f"total.{metric}")), _last(_floats(table, f"slice_total.{metric}.{name}"))
        now, rows = _floats(table, f"slice.{metric}.{name}"), np.nan_to_num(_floats(table, f"slice_rows.{name}"))
        gap = value - whole if metric in ERRORS else whole - value
        found.append(SliceStanding(name, int(_last(_floats(table, column))), metric, value, gap, _recent(now, rows)))
    return sorted(found, key=lambda one: (one.rows < FEW or math.isnan(one.gap), -one.gap, one.slice))


def _floats(table: pa.Table, column: str) -> Floats:
    """A column, with NaN for null. It avoids Arrow's compute functions, which take long to load."""
    if column not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return np.array([np.nan if value is None else value for value in table[column].to_pylist()], np.float64)


def _recent(values: Floats, rows: Floats) -> float:
    """The mean by rows of the newest values, which cover a tenth of all rows and at least `FEW`."""
    known = np.isfinite(values) & (rows > 0)
    values, rows = values[known][::-1], rows[known][::-1]
    enough = max(FEW, rows.sum() / SPANS)
    newest = slice(0, 1 + int(np.searchsorted(rows.cumsum(), enough)))
    return float(np.average(values[newest], weights=rows[newest])) if len(rows) else math.nan


def _last(values: Floats) -> float:
    """The last known value, or NaN."""
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else math.nan
