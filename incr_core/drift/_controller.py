"""Alarms: drift detectors over what all participants tell, and what to do when one of them signals.

Detection happens in one place, where the loop is, over sums that participants tell with each increment before they
learn it. So it is the same on every engine, and what is to be done reaches all participants before the next step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from incr_core import metrics
from incr_core.drift._monitor import DriftMonitor
from incr_core.metrics import Statistics
from incr_core.objectives import Objective
from incr_core.rounds import Arrival, Orders, merged_pieces

__all__ = ["BLOCK", "Alarm", "Alarms"]

BLOCK = 32
"""Rows, at least, whose mean is one value for the detector."""

LOWER_IS_BETTER = ("log_loss", "brier", "calibration_error", "mae", "mse", "rmse")


class Alarm:
    """One detector, what it watches, and its actions.

    watch: "loss", "error", "features" or the name of a metric, of which each increment gives one value.
    block: rows in a value; a metric's is an increment's, and ddm counts errors row by row.
    rate, lasting: the factor of `raise_rate`, and for how many increments. enlarge: that of `enlarge_replay`.

    >>> alarm = Alarm("page_hinkley", "loss", ["alert"])
    >>> calm = np.tile([[[0.8], [8.0]], [[2.4], [8.0]]], (500, 1, 1))
    >>> alarm.take(calm), alarm.take(calm + [[4.0], [0.0]])[0]
    ([], 8032)
    """

    def __init__(
        self,
        detector: str,
        watch: str,
        actions: Sequence[str],
        *,
        block: int | None = None,
        warm_up: int = 32,
        rate: float = 3.0,
        lasting: int = 5,
        enlarge: float = 2.0,
        options: Mapping[str, float] | None = None,
    ) -> None:
        self.watch, self.actions = watch, tuple(actions)
        self.is_metric = watch not in ("loss", "error", "features")
        rises = watch in ("loss", "error", *LOWER_IS_BETTER)
        side = "features" if watch == "features" else "loss" if rises else "metric"
        self.monitor = DriftMonitor(detector, side, 1, warm_up, **(options or {}))
        self.block = 1 if detector == "ddm" or self.is_metric else block or BLOCK
        self.rate, self.lasting, self.enlarge = rate, lasting, enlarge
        self.rows = 0  # told so far
        self._sum: npt.NDArray[np.float64] | None = None  # of a block not yet full, (2, F)
        self._waiting = 0

    def take(self, told: npt.NDArray[np.float64], rows: int | None = None) -> list[int]:
        """Take pieces (m, 2, F) of sums and counts; give the numbers of rows told when a drift was signalled.

        rows: how many rows a piece stands for; None: as many as its largest count.
        """
        values, ends = [], []
        for piece in told:
            count = int(piece[1].max()) if rows is None else rows
            self._sum = piece.copy() if self._sum is None else self._sum + piece
            self._waiting += count
            self.rows += count
            if self._waiting >= self.block:
                total, known = self._sum
                values.append(np.divide(total, known, out=np.full_like(total, np.nan), where=known > 0))
                ends.append(self.rows)
                self._sum, self._waiting = None, 0
        return [ends[place] for place in self.monitor.update(np.array(values))] if values else []

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

    def state_dict(self) -> dict[str, Any]:
        """All it remembers."""
        return {
            "monitor": self.monitor.state_dict(),
            "rows": self.rows,
            "sum": None if self._sum is None else self._sum.tolist(),
            "waiting": self._waiting,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self.monitor.load_state_dict(state["monitor"])
        self.rows, self._waiting = state["rows"], state["waiting"]
        self._sum = None if state["sum"] is None else np.array(state["sum"])


class Alarms:
    """All alarms of a run, and what is under way because of them.

    every: rows after which the strategies consolidate, where they do not after each increment. by_task: they do before
    rows of a task are learned that is new.
    """

    def __init__(
        self, alarms: Sequence[Alarm], objective: Objective, every: int | None = None, by_task: bool = False
    ) -> None:
        self.alarms, self.objective, self.every, self.by_task = list(alarms), objective, every, by_task
        self._tasks: set[int] = set()
        self._raised_for = 0  # increments for which the learning rate stays raised
        self._unconsolidated = 0  # rows learned since the strategies consolidated

    def notice(self, arrivals: Sequence[Arrival]) -> list[tuple[Alarm, list[int]]]:
        """The alarms that signal at an increment not yet learned, each with the rows it had been told of."""
        found = []
        place = 0  # among what participants tell
        for alarm in self.alarms:
            if alarm.is_metric:
                rows = alarm.take(*self._metric(alarm.watch, arrivals))
            else:
                told = [arrival.watched[place] for arrival in arrivals if arrival.watched]
                rows = alarm.take(_numpy(merged_pieces(told))) if told else []
                place += 1
            if rows:
                found.append((alarm, rows))
        return found

    def new_tasks(self, arrivals: Sequence[Arrival]) -> list[int]:
        """The tasks of rows to learn that no rows were of before; none where nobody waits for them."""
        if not self.by_task:
            return []
        new = sorted({task for arrival in arrivals for task in arrival.tasks} - self._tasks)
        self._tasks.update(new)
        return new

    def orders(self, signalled: Sequence[Alarm], boundary: bool = False) -> Orders:
        """What is to be done now, before the increment is learned; boundary: another task begins with it."""
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
        """An increment's value of a metric, as a piece; none where nothing was scored."""
        statistics: Statistics = {}
        for arrival in arrivals:
            statistics = metrics.add(statistics, arrival.statistics)
        value = self.objective.metrics(statistics).get(name, np.nan) if statistics else np.nan
        scored = sum(arrival.scored for arrival in arrivals)
        known = [[[value], [1.0]]] if np.isfinite(value) else np.zeros((0, 2, 1))
        return np.array(known, dtype=np.float64), scored

    def state_dict(self) -> dict[str, Any]:
        """All they remember."""
        return {
            "alarms": [alarm.state_dict() for alarm in self.alarms],
            "raised_for": self._raised_for,
            "unconsolidated": self._unconsolidated,
            "tasks": sorted(self._tasks),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        for alarm, saved in zip(self.alarms, state["alarms"], strict=True):
            alarm.load_state_dict(saved)
        self._raised_for, self._unconsolidated = state["raised_for"], state["unconsolidated"]
        self._tasks = set(state["tasks"])


def _numpy(told: Tensor) -> npt.NDArray[np.float64]:
    return np.asarray(told.numpy(), dtype=np.float64)
