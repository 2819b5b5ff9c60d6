"""A detector of drift in a series of statistics: blocks of rows, brought to one scale, go through a test of river's.

A test has thresholds in units of its input, looks at every value and costs Python time for each. So rows are averaged
in blocks, and the block means measured in deviations from the mean of the first blocks since the last drift. What
reaches the test is then about standard normal, whatever the statistic: one set of defaults serves a log loss, an error
in minutes and a feature. (DDM alone counts errors, row by row.)

What the defaults are chosen for, and `tests/drift/test_detector.py` holds them to: each of three planted drifts found
within 2,000 rows, and at most one false alarm in 100,000 stationary rows.

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
"""Rows, at least, whose mean is one value."""


class Detector:
    """Find the rows at which the mean of a series has changed.

    test: "adwin" (Bifet and Gavalda 2007), "page_hinkley" (Page 1954), "kswin" (Raab, Heusinger and Schleif 2020; sees
        changes of shape too, and is the slowest) or "ddm" (Gama et al. 2004; errors of 0 and 1 only, in blocks of 1).
    change: which changes are drift: a "rise", a "fall" or "both"; one that is not only restarts the test: the model
        learns.
    block: rows, at least, averaged into one value.
    warm_up: blocks that set the scale, at the start and after each drift; no drift is found in them.
    options: arguments of river's detector, in place of ours.

    The series comes as sums and counts over a few rows each. It may have columns: each has its own test, stricter by
    the number of columns.

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
        except TypeError as error:  # river's own constructor says which argument it does not know
            raise ArgumentError(f"drift.{test}: {error}") from error
        self.rows = 0  # so far
        self._columns: list[_Column] = []
        self._sum: npt.NDArray[np.float64] | None = None  # of a block not yet full, (2, F)
        self._waiting = 0  # rows in it

    def update(self, sums: npt.NDArray[np.float64], rows: int | None = None) -> list[int]:
        """Take sums and counts (m, 2, F); return how many rows had been taken at each drift that was found.

        rows: how many rows each of the m stands for; None: as many as its largest count. Blocks without a finite value
        are left out. How a series is cut into calls makes no difference.
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
        """Take a block, by its sums and counts (F,)."""
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
        """All the state there is, as JSON can hold it."""
        return {
            **self._kind(),
            "rows": self.rows,
            "sum": None if self._sum is None else self._sum.tolist(),
            "waiting": self._waiting,
            "columns": [column.state() for column in self._columns],
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from `state`, as if never stopped."""
        for name, value in self._kind().items():
            if state.get(name) != value:
                raise CheckpointError(f"drift.{name}: expected {value!r}, saved was {state.get(name)!r}")
        self.rows, self._waiting = state["rows"], state["waiting"]
        self._sum = None if state["sum"] is None else np.array(state["sum"])
        self._columns = self._fresh(len(state["columns"]))
        for column, saved in zip(self._columns, state["columns"], strict=True):
            column.load(saved)

    def _kind(self) -> State:
        """What a state can be loaded by; river's version, because the tests' states are its own."""
        kind = {"schema": SCHEMA, "test": self.test, "change": self.change, "block": self.block}
        return {**kind, "river": str(river().__version__)}


class _Column:
    """One column of the series: its scale, and its test."""

    def __init__(self, test: ChangeTest, warm_up: int) -> None:
        self.test = test
        self.warm_up = warm_up if test.scaled else 0
        self.first: list[float] = []  # the values that set the scale, until there are `warm_up`
        self.centre = 0.0
        self.scale = 1.0

    def update(self, value: float) -> int:
        """Take a block's mean; return the direction of a change (+1, -1), or 0 for none."""
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
        """Centre and deviation of the first values, the latter from the differences of neighbours.

        var = mean((x[i+1] - x[i])^2) / 2 (von Neumann 1941): a slope, or a step among the first values, would
        inflate the deviation around their mean, and dull the test until the next drift.
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
