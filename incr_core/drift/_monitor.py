"""Notice when the stream has changed: river's drift detectors, fed in a way their defaults can bear.

A detector has thresholds in units of its input, tests once per value and costs Python time per value. So the
rows of a column are averaged in blocks, and the block means measured in deviations from the mean of the first
blocks since the last drift. What reaches the detector is then about standard normal, whatever is watched: one
set of defaults serves a log loss, an error in minutes and a feature. (DDM alone counts errors, row by row.)

What the defaults are chosen for, and `tests/drift/test_monitor.py` holds them to: each of three planted drifts
found within 2,000 rows, and at most one false alarm in 100,000 stationary rows.

Needs `pip install 'incr[drift]'`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from incr_core.drift._detectors import DETECTORS, Detector, State, river
from incr_core.errors import ArgumentError, CheckpointError

__all__ = ["DriftMonitor"]

SCHEMA = 1


class DriftMonitor:
    """Tell the rows at which what is watched has changed.

    detector: "adwin" (Bifet and Gavalda 2007), "page_hinkley" (Page 1954), "kswin" (Raab, Heusinger and
        Schleif 2020; sees changes of shape too, and is the slowest) or "ddm" (Gama et al. 2004; errors of 0
        and 1 only).
    watch: "loss" signals what rises, "metric" what falls, "features" both; what goes the other way is a
        model that learns, and only restarts the detector.
    block: rows averaged into one value. 32, and 1 for a metric, where each value is already a mean.
    warm_up: blocks that set the scale, at the start and after each drift; no drift is signalled in them.
    options: arguments of river's detector, in place of ours.

    Values may have columns (n, F): each has its own detector, stricter by the number of columns.

    >>> loss = np.concatenate([np.tile([0.1, 0.3], 2000), np.tile([0.5, 0.9], 500)])
    >>> monitor = DriftMonitor("page_hinkley")
    >>> monitor.update(loss[:3000]), monitor.update(loss[3000:])
    ([], [1031])
    >>> again = DriftMonitor("page_hinkley")
    >>> again.load_state_dict(monitor.state_dict())
    >>> again.update(loss) == monitor.update(loss)
    True
    """

    def __init__(
        self,
        detector: str = "adwin",
        watch: str = "loss",
        block: int | None = None,
        warm_up: int = 32,
        **options: float,
    ) -> None:
        if detector not in DETECTORS:
            raise ArgumentError(f"drift.detector: expected one of {', '.join(DETECTORS)}, got {detector!r}")
        if watch not in ("loss", "metric", "features"):
            raise ArgumentError(f"drift.watch: expected loss, metric or features, got {watch!r}")
        if detector == "ddm" and watch != "loss":
            raise ArgumentError(f"drift.watch: ddm counts errors, which are a loss, got {watch!r}; use adwin")
        if detector == "ddm" and block not in (None, 1):
            raise ArgumentError(f"drift.block: ddm counts errors row by row, got block = {block}; leave it out")
        if block is not None and block < 1:
            raise ArgumentError(f"drift.block: expected at least one row, got {block}")
        if warm_up < 2:
            raise ArgumentError(f"drift.warm_up: expected at least two blocks, got {warm_up}")
        river()
        try:
            DETECTORS[detector](1, options)
        except TypeError as error:  # river's own constructor says which argument it does not know
            raise ArgumentError(f"drift.{detector}: {error}") from error
        self.detector = detector
        self.watch = watch
        self.block = block or (1 if detector == "ddm" or watch == "metric" else 32)
        self.warm_up = warm_up
        self.options = options
        self._channels: list[_Channel] = []
        self._pending: npt.NDArray[np.float64] = np.empty((0, 0))  # rows of a block not yet full

    def update(self, values: npt.NDArray[Any]) -> list[int]:
        """Take values (n,) or (n, F), in order; give the positions in them at which drift was signalled.

        A position is the last row of its block. Values that are not finite are left out of their block's
        mean. How a stream is cut into calls makes no difference.
        """
        if len(values) == 0:
            return []
        rows = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
        if not self._channels:
            self._channels = [self._channel(rows.shape[1]) for _ in range(rows.shape[1])]
            self._pending = rows[:0]
        if rows.shape[1] != len(self._channels):
            raise ArgumentError(f"drift: expected {len(self._channels)} columns as before, got {rows.shape[1]}")
        if self.detector == "ddm" and not np.isin(rows, (0.0, 1.0)).all():
            raise ArgumentError("drift: ddm counts errors, expected 0 or 1 for each row; use adwin for other values")
        waiting = len(self._pending)
        rows = np.concatenate([self._pending, rows])
        blocks = len(rows) // self.block
        self._pending = rows[blocks * self.block :]
        means = _means(rows[: blocks * self.block].reshape(blocks, self.block, rows.shape[1]))
        if self.watch == "metric":
            means = -means
        changed = np.zeros(blocks, dtype=bool)
        for channel, column in zip(self._channels, means.T, strict=True):
            changed |= channel.update(column)
        ends = np.flatnonzero(changed) * self.block + self.block - 1 - waiting
        return [int(end) for end in ends]

    def state_dict(self) -> State:
        """All the state there is, as JSON can hold it."""
        return {
            "schema": SCHEMA,
            "detector": self.detector,
            "watch": self.watch,
            "block": self.block,
            "river": str(river().__version__),
            "pending": [[v if math.isfinite(v) else None for v in row] for row in self._pending.tolist()],
            "channels": [channel.state() for channel in self._channels],
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from `state`, as if never stopped."""
        mine = {"schema": SCHEMA, "detector": self.detector, "watch": self.watch, "block": self.block}
        mine["river"] = str(river().__version__)  # whose bytes these are
        for name, value in mine.items():
            if state.get(name) != value:
                raise CheckpointError(f"drift.{name}: expected {value!r}, saved was {state.get(name)!r}")
        columns = len(state["channels"])
        self._channels = [self._channel(columns) for _ in range(columns)]
        self._pending = np.array(state["pending"], dtype=np.float64).reshape(len(state["pending"]), columns)
        for channel, saved in zip(self._channels, state["channels"], strict=True):
            channel.load(saved)

    def _channel(self, columns: int) -> _Channel:
        detector = DETECTORS[self.detector](columns, self.options)
        return _Channel(detector, self.warm_up if detector.scaled else 0, both=self.watch == "features")


class _Channel:
    """One column: its scale, and its detector."""

    def __init__(self, detector: Detector, warm_up: int, both: bool) -> None:
        self.detector = detector
        self.warm_up = warm_up
        self.both = both
        self.first: list[float] = []  # the values that set the scale, until there are `warm_up`
        self.centre = 0.0
        self.scale = 1.0

    def update(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """For each value, whether it is the one that gave a drift away."""
        signalled = np.zeros(len(values), dtype=bool)
        for i, value in enumerate(values.tolist()):
            if math.isnan(value):
                continue
            if len(self.first) < self.warm_up:
                self.first.append(value)
                if len(self.first) == self.warm_up:
                    self._set_scale()
                    for early in self.first:
                        self.detector.update((early - self.centre) / self.scale)
                continue
            change = self.detector.update((value - self.centre) / self.scale)
            if change:
                self.first = []
                self.detector.restart()
                signalled[i] = self.both or change > 0
        return signalled

    def _set_scale(self) -> None:
        """Centre and deviation of the first values, the latter from the differences of neighbours.

        var = mean((x[i+1] - x[i])^2) / 2 (von Neumann 1941): a slope, or a step among the first values, would
        inflate the deviation around their mean, and dull the detector until the next drift.
        """
        first = np.array(self.first)
        self.centre = float(first.mean())
        deviation = math.sqrt(float(np.square(np.diff(first)).mean()) / 2)
        self.scale = max(deviation, 1e-9 * abs(self.centre)) or 1.0

    def state(self) -> State:
        scale = {"first": self.first, "centre": self.centre, "scale": self.scale}
        return scale | {"detector": self.detector.state()}

    def load(self, state: State) -> None:
        self.first = list(state["first"])
        self.centre, self.scale = state["centre"], state["scale"]
        self.detector.load(state["detector"])


def _means(blocks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means of the finite values of blocks (m, block, F): (m, F), NaN where there is none."""
    finite = np.isfinite(blocks)
    count = finite.sum(1)
    total = np.where(finite, blocks, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
