"""Notice when the stream has changed: river's drift detectors, fed in a way their defaults can bear.

A detector has thresholds in units of its input, tests once per value and costs Python time per value. So the
rows of a column are averaged in blocks, and the block means measured in deviations from the mean of the first
blocks since the last drift. What reaches the detector is then about standard normal, whatever is watched: one
set of defaults serves a log loss, an error in minutes and a feature. (DDM alone counts errors, row by row.)

What the defaults are chosen for, and `tests/core/test_drift.py` holds them to: each of three planted drifts
found within 2,000 rows, and at most one false alarm in 100,000 stationary rows.

Needs `pip install 'incr[drift]'`.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from incr_core.errors import CheckpointError, JobError

__all__ = ["DETECTORS", "DriftMonitor"]

State = dict[str, Any]
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
            raise JobError(f"drift.detector: expected one of {', '.join(DETECTORS)}, got {detector!r}")
        if watch not in ("loss", "metric", "features"):
            raise JobError(f"drift.watch: expected loss, metric or features, got {watch!r}")
        if detector == "ddm" and watch != "loss":
            raise JobError(f"drift.watch: ddm counts errors, which are a loss, got {watch!r}; use adwin")
        if detector == "ddm" and block not in (None, 1):
            raise JobError(f"drift.block: ddm counts errors row by row, got block = {block}; leave it out")
        if block is not None and block < 1:
            raise JobError(f"drift.block: expected at least one row, got {block}")
        if warm_up < 2:
            raise JobError(f"drift.warm_up: expected at least two blocks, got {warm_up}")
        _river()
        try:
            DETECTORS[detector](1, options)
        except TypeError as error:  # river's own constructor says which argument it does not know
            raise JobError(f"drift.{detector}: {error}") from error
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
            raise JobError(f"drift: expected {len(self._channels)} columns as before, got {rows.shape[1]}")
        if self.detector == "ddm" and not np.isin(rows, (0.0, 1.0)).all():
            raise JobError("drift: ddm counts errors, expected 0 or 1 for each row; use adwin for other values")
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
            "river": str(_river().__version__),
            "pending": [[v if math.isfinite(v) else None for v in row] for row in self._pending.tolist()],
            "channels": [channel.state() for channel in self._channels],
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from `state`, as if never stopped."""
        mine = {"schema": SCHEMA, "detector": self.detector, "watch": self.watch, "block": self.block}
        mine["river"] = str(_river().__version__)  # whose bytes these are
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

    def __init__(self, detector: _Detector, warm_up: int, both: bool) -> None:
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


# -- river's detectors behind one face --


def _river() -> Any:
    try:
        import river
        import river.drift.binary
    except ImportError as error:
        raise JobError("drift: needs river, which is not installed; pip install 'incr[drift]'") from error
    return river


class _Detector(Protocol):
    """One of river's detectors. `update` gives the direction of a change (+1, -1), or 0 for none."""

    scaled: bool

    def __init__(self, columns: int, options: dict[str, float]) -> None: ...
    def restart(self) -> None: ...
    def update(self, value: float) -> int: ...
    def state(self) -> Any: ...
    def load(self, state: Any) -> None: ...


class _Adwin:
    """Two sub-windows with unequal means. Its state is river's own bytes of the buckets, about 1 kB."""

    scaled = True

    def __init__(self, columns: int, options: dict[str, float]) -> None:
        defaults: dict[str, Any] = {"delta": 0.002 / columns, "clock": 1}
        self.options = defaults | options
        self.restart()

    def restart(self) -> None:
        self.river = _river().drift.ADWIN(**self.options)

    def update(self, value: float) -> int:
        before = self.river.estimation
        self.river.update(value)
        if not self.river.drift_detected:
            return 0
        return 1 if self.river.estimation > before else -1

    def state(self) -> str:
        return bytes(self.river._helper.__getstate__()).hex()

    def load(self, state: str) -> None:
        self.river._helper.__setstate__(bytes.fromhex(state))


class _PageHinkley:
    """A cumulative sum that leaves its extreme by more than a threshold."""

    scaled = True
    _fields = ("_sum_increase", "_sum_decrease", "_min_increase", "_max_decrease")

    def __init__(self, columns: int, options: dict[str, float]) -> None:
        # For steps of delta = 1/2 the time between false alarms grows as exp(threshold), hence the logarithm.
        defaults: dict[str, Any] = {"delta": 0.5, "threshold": 15.0 + math.log(columns), "min_instances": 1}
        self.options = defaults | options
        self.restart()

    def restart(self) -> None:
        self.river = _river().drift.PageHinkley(**self.options)

    def update(self, value: float) -> int:
        river = self.river
        river.update(value)
        if not river.drift_detected:
            return 0
        return 1 if river._sum_increase - river._min_increase > river.threshold else -1

    def state(self) -> State | None:
        mean = self.river._x_mean
        if mean.n == 0:
            return None
        return {name: getattr(self.river, name) for name in self._fields} | {"n": mean.n, "mean": mean.get()}

    def load(self, state: State | None) -> None:
        self.restart()
        if state is not None:
            for name in self._fields:
                setattr(self.river, name, state[name])
            self.river._x_mean = _river().stats.Mean._from_state(state["n"], state["mean"])


class _KSWIN:
    """The newest values beside as many older ones, in a Kolmogorov-Smirnov test.

    A change of shape counts too, but one that keeps the mean needs more values: try stat_size = 100 of 200.
    """

    scaled = False  # a rank test needs no scale

    def __init__(self, columns: int, options: dict[str, float]) -> None:
        defaults: dict[str, Any] = {"alpha": 1e-5 / columns, "window_size": 60, "stat_size": 30, "seed": 0}
        self.options = defaults | options
        self.restart()

    def restart(self) -> None:
        self.river = _river().drift.KSWIN(**self.options)

    def update(self, value: float) -> int:
        values = [*self.river.window, value]
        self.river.update(value)
        if not self.river.drift_detected:
            return 0
        recent = values[-self.river.stat_size :]
        return 1 if np.mean(recent) > np.mean(values[: -len(recent)]) else -1

    def state(self) -> State:
        version, words, _ = self.river._rng.getstate()
        return {"window": list(self.river.window), "n": self.river.n, "draws": [version, list(words)]}

    def load(self, state: State) -> None:
        self.restart()
        self.river.window.extend(state["window"])
        self.river.n = state["n"]
        version, words = state["draws"]
        self.river._rng.setstate((version, tuple(words), None))


class _DDM:
    """An error rate that leaves its minimum by so many of its deviations."""

    scaled = False

    def __init__(self, columns: int, options: dict[str, float]) -> None:
        # River's 30 rows and 3 deviations cry wolf. The rate is over all rows since the last drift, so the delay
        # grows with them: after a long calm the other detectors are faster.
        defaults: dict[str, Any] = {"warm_start": 500, "drift_threshold": 3.5}
        self.options = defaults | options
        self.restart()

    def restart(self) -> None:
        self.river = _river().drift.binary.DDM(**self.options)

    def update(self, value: float) -> int:
        self.river.update(value)
        return int(self.river.drift_detected)

    def state(self) -> State:
        river = self.river
        return {"n": river._p.n, "rate": river._p.get(), "p_min": river._p_min, "s_min": river._s_min}

    def load(self, state: State) -> None:
        self.restart()
        river = self.river
        river._p = _river().stats.Mean._from_state(state["n"], state["rate"])
        river._p_min, river._s_min = state["p_min"], state["s_min"]
        if river._p_min is not None:
            river._ps_min = river._p_min + river._s_min


DETECTORS: dict[str, type[_Detector]] = {
    "adwin": _Adwin,
    "page_hinkley": _PageHinkley,
    "kswin": _KSWIN,
    "ddm": _DDM,
}
