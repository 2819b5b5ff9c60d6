"""Drift detector for a series of statistics: standardised block means, followed by a change test of river.

A change test has thresholds in units of its input, examines every value and costs Python time for each. Rows are
therefore averaged in blocks. Block means are standardised by the first blocks since the last drift, so the input of the
test is approximately standard normal for any statistic. One set of defaults serves a log loss, an error in minutes and
a feature. (DDM alone counts errors, row by row.)

Requirements on the defaults, which `tests/drift/test_detector.py` checks: each of three planted drifts is found within
2,000 rows, and 100,000 stationary rows give at most one false alarm.

Needs `pip install 'incr[drift]'`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from incr_core.drift._river import TESTS, ChangeTest, State, river
from incr_core.errors import ArgumentError, CheckpointError

__all__ = ["BLOCK", "Detector"]

SCHEMA = 2

BLOCK = 32
"""Minimum number of rows whose mean is one value."""


class Detector:
    """Finds the rows at which the mean of a series changes.

    The series comes as sums and counts over a few rows each. It may have several columns; each has its own test, and
    the tests become stricter with the number of columns.

    Args:
        test: "adwin" (Bifet and Gavalda 2007), "page_hinkley" (Page 1954), "kswin" (Raab, Heusinger and Schleif 2020;
            detects changes of shape too, and is the slowest) or "ddm" (Gama et al. 2004; errors of 0 and 1 only, in
            blocks of 1).
        change: Direction of a drift: "rise", "fall" or "both". A change in the other direction restarts the test,
            because it shows that the model learns.
        block: Minimum number of rows averaged into one value.
        warm_up: Number of blocks that set the scale, at the start and after each drift. No drift is detected during
            warm-up.
        options: Arguments of river's detector that replace our defaults.

    Raises:
        ArgumentError: River is not installed, or its detector rejects an option.

    Example:
        >>> calm = np.tile([[[0.8], [8.0]], [[2.4], [8.0]]], (500, 1, 1))
        >>> detector = Detector("page_hinkley")
        >>> detector.update(calm), detector.update(calm + [[4.0], [0.0]])[0]
        ([], 8032)
        >>> again = Detector("page_hinkley")
        >>> again.load_state_dict(detector.state_dict())
        >>> again.update(calm) == detector.update(calm)
        True
    """

    def __init__(
        self,
        test: str = "adwin",
        change: str = "rise",
        *,
        block: int = BLOCK,
        warm_up: int = 32,
        options: Mapping[str, float] | None = None,
    ) -> None:
        river()
        self.test, self.change, self.block, self.warm_up, self.options = test, change, block, warm_up, options or {}
        try:
            TESTS[test](1, self.options)
        except TypeError as error:  # river's constructor names the unknown argument
            raise ArgumentError(f"drift.{test}: {error}") from error
        self.rows = 0  # so far
        self._columns: list[_Column] = []
        self._sum: npt.NDArray[np.float64] | None = None  # of an incomplete block, (2, F)
        self._waiting = 0  # number of rows in it

    def update(self, sums: npt.NDArray[np.float64], rows: int | None = None) -> list[int]:
        """Update the detector; the result does not depend on how the series is divided into calls.

        Args:
            sums: Sums and counts, (m, 2, F). Blocks without a finite value are skipped.
            rows: Number of rows in each of the m entries. None takes the largest count of the entry.

        Returns:
            The number of rows processed at each drift.
        """
        found = []
        for some in sums:
            count = int(some[1].max()) if rows is None else rows
            self._sum = some.copy() if self._sum is None else self._sum + some
            self._waiting += count
            self.rows += count
            if self._waiting >= self.block:
                if self._drifted(*self._sum):
                    found.append(self.rows)
                self._sum, self._waiting = None, 0
        return found

    def _drifted(self, total: npt.NDArray[np.float64], known: npt.NDArray[np.float64]) -> bool:
        """Process a block, given by its sums and counts (F,)."""
        means = np.divide(total, known, out=np.full_like(total, np.nan), where=known > 0)
        if self.test == "ddm" and not np.isin(means[known > 0], (0.0, 1.0)).all():
            raise ArgumentError("drift: ddm counts errors, expected 0 or 1 for each row; use adwin for other values")
        if not self._columns:
            self._columns = self._fresh(len(means))
        if self.change == "fall":
            means = -means
        changes = [column.update(mean) for column, mean in zip(self._columns, means.tolist(), strict=True)]
        return any(change > 0 or (change < 0 and self.change == "both") for change in changes)

    def _fresh(self, columns: int) -> list[_Column]:
        return [_Column(TESTS[self.test](columns, self.options), self.warm_up) for _ in range(columns)]

    def state_dict(self) -> State:
        """Return the complete state, as JSON-compatible values."""
        return {
            **self._kind(),
            "rows": self.rows,
            "sum": None if self._sum is None else self._sum.tolist(),
            "waiting": self._waiting,
            "columns": [column.state() for column in self._columns],
        }

    def load_state_dict(self, state: State) -> None:
        """Restore the state."""
        for name, value in self._kind().items():
            if state.get(name) != value:
                raise CheckpointError(f"drift.{name}: expected {value!r}, saved was {state.get(name)!r}")
        self.rows, self._waiting = state["rows"], state["waiting"]
        self._sum = None if state["sum"] is None else np.array(state["sum"])
        self._columns = self._fresh(len(state["columns"]))
        for column, saved in zip(self._columns, state["columns"], strict=True):
            column.load(saved)

    def _kind(self) -> State:
        """Return the properties that a loaded state must match. River's version is one, because test states depend on
        it.
        """
        kind = {"schema": SCHEMA, "test": self.test, "change": self.change, "block": self.block}
        return {**kind, "river": str(river().__version__)}


class _Column:
    """One column of the series: its scale and its test."""

    def __init__(self, test: ChangeTest, warm_up: int) -> None:
        self.test = test
        self.warm_up = warm_up if test.scaled else 0
        self.first: list[float] = []  # the values that set the scale, up to `warm_up`
        self.centre = 0.0
        self.scale = 1.0

    def update(self, value: float) -> int:
        """Process a block mean; return the direction of a change (+1, -1), or 0 for none."""
        if math.isnan(value):
            return 0
        if len(self.first) < self.warm_up:
            self.first.append(value)
            if len(self.first) == self.warm_up:
                self._set_scale()
                for early in self.first:
                    self.test.update((early - self.centre) / self.scale)
            return 0
        change = self.test.update((value - self.centre) / self.scale)
        if change:
            self.first = []
            self.test.restart()
        return change

    def _set_scale(self) -> None:
        """Set the centre to the mean of the first values, and the scale from differences of neighbours.

        var = mean((x[i+1] - x[i])^2) / 2 (von Neumann 1941). A slope or a step among the first values would inflate the
        deviation around the mean, and make the test insensitive until the next drift.
        """
        first = np.array(self.first)
        self.centre = float(first.mean())
        deviation = math.sqrt(float(np.square(np.diff(first)).mean()) / 2)
        self.scale = max(deviation, 1e-9 * abs(self.centre)) or 1.0

    def state(self) -> State:
        return {"first": self.first, "centre": self.centre, "scale": self.scale, "test": self.test.state()}

    def load(self, state: State) -> None:
        self.first = list(state["first"])
        self.centre, self.scale = state["centre"], state["scale"]
        self.test.load(state["test"])
