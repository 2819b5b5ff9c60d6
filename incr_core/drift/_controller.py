"""The drift controller: a run's reaction to a drift, and consolidation that is not due after every increment.

Drift is detected in the process of the loop, from statistics that participants report before they learn an increment.
Detection is therefore the same on every engine, and orders reach all participants before the next step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from incr_core import metrics
from incr_core.drift._detector import Detector
from incr_core.objectives import Objective
from incr_core.rounds import PROBED, Arrival, Orders, interleaved

__all__ = ["ACTIONS", "Alarm", "Controller"]

ACTIONS = ("alert", "consolidate", "raise_rate", "flush_replay", "enlarge_replay", "restart_schedule", "rewarm")
"""Possible actions at a drift. "alert" records an event, as every drift does; "rewarm" restores the champion's weights.
"""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A detector, the statistic that it observes, and the actions at a drift.

    Attributes:
        statistic: A name in `PROBED`, or the name of a metric, which has one value per increment.
        detector: The detector.
        actions: Names in `ACTIONS`.
        rate: Factor of `raise_rate` on the learning rate.
        lasting: Number of increments for which the rate stays raised.
        enlarge: Factor of `enlarge_replay` on the capacity of memories.
    """

    statistic: str
    detector: Detector
    actions: Sequence[str] = ("alert",)
    rate: float = 3.0
    lasting: int = 5
    enlarge: float = 2.0

    @property
    def orders(self) -> Orders:
        """Orders for the participants at a drift."""
        return Orders(
            consolidate="consolidate" in self.actions,
            rate=self.rate if "raise_rate" in self.actions else None,
            flush="flush_replay" in self.actions,
            enlarge=self.enlarge if "enlarge_replay" in self.actions else 1.0,
            restart="restart_schedule" in self.actions,
        )

    def described(self) -> str:
        """Describe the actions at a drift, for reports."""
        words = {
            "raise_rate": f"learning rate x {self.rate:g} for {self.lasting} increments",
            "flush_replay": "flushed the memories",
            "enlarge_replay": f"memories x {self.enlarge:g}",
            "consolidate": "consolidated",
            "restart_schedule": "restarted the schedule",
            "rewarm": "returned to the champion's weights",
        }
        return ", ".join(words[action] for action in self.actions if action in words) or "alert"


class Controller:
    """Decides between increments which orders participants receive.

    Args:
        alarms: The alarms.
        objective: The objective, which computes metrics.
        every: Number of rows after which strategies consolidate. None turns this off.
        by_task: Whether strategies consolidate before the rows of a new task are learned.
    """

    def __init__(
        self, alarms: Sequence[Alarm], objective: Objective, every: int | None = None, by_task: bool = False
    ) -> None:
        self.alarms, self.objective, self.every, self.by_task = list(alarms), objective, every, by_task
        self._tasks: set[int] = set()
        self._raised_for = 0  # remaining increments with a raised learning rate
        self._unconsolidated = 0  # rows learned since the last consolidation

    def drifts(self, arrivals: Sequence[Arrival]) -> list[tuple[Alarm, int]]:
        """Update the detectors with an increment that is not learned yet.

        Args:
            arrivals: The participants' reports.

        Returns:
            For each drift, the alarm and the number of rows of its statistic at that point.
        """
        found = []
        probe = 0  # place of this alarm's statistic in every report
        for alarm in self.alarms:
            if alarm.statistic in PROBED:
                reports = [arrival.probed[probe] for arrival in arrivals if arrival.probed]
                rows = alarm.detector.update(interleaved(reports).numpy()) if reports else []
                probe += 1
            else:
                rows = alarm.detector.update(*self._metric(alarm.statistic, arrivals))
            found += [(alarm, row) for row in rows]
        return found

    def new_tasks(self, arrivals: Sequence[Arrival]) -> list[int]:
        """Return the tasks that occur for the first time; empty unless strategies consolidate by task."""
        if not self.by_task:
            return []
        new = sorted({task for arrival in arrivals for task in arrival.tasks} - self._tasks)
        self._tasks.update(new)
        return new

    def orders(self, signalled: Sequence[Alarm], boundary: bool = False) -> Orders:
        """Return the orders before the increment is learned. `boundary` means that a new task begins with it."""
        orders = Orders(consolidate=boundary)
        for alarm in signalled:
            orders |= alarm.orders
            if alarm.orders.rate is not None:
                self._raised_for = alarm.lasting
        if orders.consolidate:
            self._unconsolidated = 0
        return orders

    def learned(self, rows: int) -> Orders:
        """Return the orders after `rows` rows of an increment were learned."""
        if not rows:
            return Orders()
        self._unconsolidated += rows
        consolidate = self.every is not None and self._unconsolidated >= self.every
        if consolidate:
            self._unconsolidated = 0
        ends = self._raised_for == 1
        self._raised_for -= self._raised_for > 0
        return Orders(consolidate=consolidate, rate=1.0 if ends else None)

    def _metric(self, name: str, arrivals: Sequence[Arrival]) -> tuple[npt.NDArray[np.float64], int]:
        """Return an increment's value of a metric as one sum, empty if undefined, and the number of rows scored."""
        statistics = metrics.total(arrival.statistics for arrival in arrivals)
        value = self.objective.metrics(statistics).get(name, np.nan) if statistics else np.nan
        scored = sum(arrival.scored for arrival in arrivals)
        known = [[[value], [1.0]]] if np.isfinite(value) else np.zeros((0, 2, 1))
        return np.array(known, dtype=np.float64), scored

    def state_dict(self) -> dict[str, Any]:
        """Return the detectors' states and the pending counts."""
        return {
            "detectors": [alarm.detector.state_dict() for alarm in self.alarms],
            "raised_for": self._raised_for,
            "unconsolidated": self._unconsolidated,
            "tasks": sorted(self._tasks),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        for alarm, saved in zip(self.alarms, state["detectors"], strict=True):
            alarm.detector.load_state_dict(saved)
        self._raised_for, self._unconsolidated = state["raised_for"], state["unconsolidated"]
        self._tasks = set(state["tasks"])
