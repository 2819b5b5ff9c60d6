"""Metrics of each slice of the stream: of an increment's predictions, and of all so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from incr_core import metrics
from incr_core.loop._named_sums import NamedSums
from incr_core.metrics import Packed
from incr_core.objectives import Objective

__all__ = ["SliceTotals"]


class SliceTotals:
    """Sums over the predictions of each slice.

    Example:
        >>> import torch
        >>> from incr_core.objectives import Binary
        >>> totals, objective = SliceTotals(), Binary()
        >>> sums = objective.measure(torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0]))
        >>> for name, value in totals.add([{"origin=JFK": (2, sums)}, {"origin=JFK": (2, sums)}], objective).items():
        ...     print(name, value)
        slice_rows.origin=JFK 4
        slice.auc.origin=JFK 1.0
        slice_total_rows.origin=JFK 4
        slice_total.auc.origin=JFK 1.0
        >>> totals.summary(objective)["origin=JFK"]["auc"]
        1.0
    """

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._sums = NamedSums()

    def add(self, reports: Iterable[Mapping[str, tuple[int, Packed]]], objective: Objective) -> dict[str, float]:
        """Add what participants report of an increment.

        Args:
            reports: Of each participant: slice -> rows scored and their statistics (`Arrival.sliced`).
            objective: What the statistics are of.

        Returns:
            Columns of the table of metrics. Of each slice with rows in the increment: how many, and the main metric on
            them. Of each slice with rows so far: the same over all increments.
        """
        told, main = list(reports), objective.main_metric
        row: dict[str, float] = {}
        for name in dict.fromkeys(name for report in told for name in report):
            mine = [report[name] for report in told if name in report]
            rows, now = sum(count for count, _ in mine), metrics.total(sums for _, sums in mine)
            self._rows[name] = self._rows.get(name, 0) + rows
            self._sums.add(name, now)
            row |= {f"slice_rows.{name}": rows, f"slice.{main}.{name}": objective.metrics(now)[main]}
        for name, rows in self._rows.items():
            so_far = objective.metrics(self._sums.add(name, {}))[main]
            row |= {f"slice_total_rows.{name}": rows, f"slice_total.{main}.{name}": so_far}
        return row

    def summary(self, objective: Objective) -> dict[str, dict[str, float]]:
        """Slice -> rows scored so far, and every metric of the objective on them."""
        return {
            name: {"rows": rows, **objective.metrics(self._sums.add(name, {}))} for name, rows in self._rows.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """The totals that the next increments are added to."""
        return {"rows": dict(self._rows), "sums": self._sums.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        self._rows = dict(state["rows"])
        self._sums.load_state_dict(state["sums"])
