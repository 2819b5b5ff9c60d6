"""The controller: what a run does at a drift, and when its strategies consolidate if not after every increment.

Drift is detected in one place, where the loop is, in statistics that participants report with each increment before
they learn it. So detection is the same on every engine, and orders reach all participants before the next step.
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
"""What may be done at a drift. alert: an event, as every drift is; rewarm: return to the champion's weights."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A detector, the statistic that it looks at, and the actions at a drift.

    statistic: one of `PROBED`, or the name of a metric, of which each increment gives one value.
    rate, lasting: the factor of `raise_rate`, and for how many increments. enlarge: the factor of `enlarge_replay`.
    """

    statistic: str
    detector: Detector
    actions: Sequence[str] = ("alert",)
    rate: float = 3.0
    lasting: int = 5
    enlarge: float = 2.0

    @property
    def orders(self) -> Orders:
        """What participants are to do at a drift."""
        return Orders(
            consolidate="consolidate" in self.actions,
            rate=self.rate if "raise_rate" in self.actions else None,
            flush="flush_replay" in self.actions,
            enlarge=self.enlarge if "enlarge_replay" in self.actions else 1.0,
            restart="restart_schedule" in self.actions,
        )

    def described(self) -> str:
        """What is done at a drift, in words."""
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
    """Decide between increments what participants are to do besides learning.

    every: rows after which the strategies consolidate. by_task: they do before rows of a new task are learned.
    """

    def __init__(
        self, alarms: Sequence[Alarm], objective: Objective, every: int | None = None, by_task: bool = False
    ) -> None:
        self.alarms, self.objective, self.every, self.by_task = list(alarms), objective, every, by_task
        self._tasks: set[int] = set()
        self._raised_for = 0  # increments for which the learning rate stays raised
        self._unconsolidated = 0  # rows learned since the strategies consolidated

    def drifts(self, arrivals: Sequence[Arrival]) -> list[tuple[Alarm, int]]:
        """The drifts found in an increment not yet learned: the alarm, and after how many rows of its statistic."""
        found = []
        probe = 0  # its place in every report
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
        """The tasks whose first rows are to be learned now; none unless strategies consolidate by task."""
        if not self.by_task:
            return []
        new = sorted({task for arrival in arrivals for task in arrival.tasks} - self._tasks)
        self._tasks.update(new)
        return new

    def orders(self, signalled: Sequence[Alarm], boundary: bool = False) -> Orders:
        """What is to be done before the increment is learned; boundary: another task begins with it."""
        orders = Orders(consolidate=boundary)
        for alarm in signalled:
            orders |= alarm.orders
            if alarm.orders.rate is not None:
                self._raised_for = alarm.lasting
        if orders.consolidate:
            self._unconsolidated = 0
        return orders

    def learned(self, rows: int) -> Orders:
        """What is to be done after so many rows of an increment were learned."""
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
        """An increment's value of a metric, as one sum, and the rows scored; no sum where none was."""
        statistics = metrics.total(arrival.statistics for arrival in arrivals)
        value = self.objective.metrics(statistics).get(name, np.nan) if statistics else np.nan
        scored = sum(arrival.scored for arrival in arrivals)
        known = [[[value], [1.0]]] if np.isfinite(value) else np.zeros((0, 2, 1))
        return np.array(known, dtype=np.float64), scored

    def state_dict(self) -> dict[str, Any]:
        """The detectors' states, and what is under way."""
        return {
            "detectors": [alarm.detector.state_dict() for alarm in self.alarms],
            "raised_for": self._raised_for,
            "unconsolidated": self._unconsolidated,
            "tasks": sorted(self._tasks),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        for alarm, saved in zip(self.alarms, state["detectors"], strict=True):
            alarm.detector.load_state_dict(saved)
        self._raised_for, self._unconsolidated = state["raised_for"], state["unconsolidated"]
        self._tasks = set(state["tasks"])
