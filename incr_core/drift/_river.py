"""River's drift detectors behind one interface, with defaults for approximately standard normal values.

Their states are read from private attributes, because river saves detectors by pickle only. Tested with river 0.26.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from incr_core.errors import ArgumentError, IncrError

__all__ = ["TESTS", "ChangeTest", "State", "river"]

TESTED = "0.26"

State = dict[str, Any]


def river() -> Any:
    """Import river and its detectors.

    Raises:
        ArgumentError: River is not installed.
        IncrError: This version of river lacks a private attribute that is needed.
    """
    try:
        import river
        import river.drift.binary
    except ImportError as error:
        raise ArgumentError("drift: needs river, which is not installed; pip install 'incr[drift]'") from error
    _check(river)
    return river


@cache
def _check(river: Any) -> None:
    """Raise an IncrError if this version of river lacks a private attribute that is read here."""
    drift = river.drift
    needed: list[tuple[Any, tuple[str, ...]]] = [
        (drift.ADWIN(), ("_helper",)),
        (drift.PageHinkley(), (*_PageHinkley._fields, "_x_mean")),
        (drift.KSWIN(), ("_rng",)),
        (drift.binary.DDM(), ("_p", "_p_min", "_s_min", "_ps_min")),
        (river.stats.Mean, ("_from_state",)),
    ]
    missing = [name for holder, names in needed for name in names if not hasattr(holder, name)]
    if missing:
        raise IncrError(
            f"river {river.__version__}: expected its private names {', '.join(missing)}, found none; "
            f"incr was tested with river {TESTED}: pip install 'river=={TESTED}.*'"
        )


class ChangeTest:
    """Base class of the wrappers of river's detectors.

    Args:
        columns: Number of tests on the columns of one series; the tests become stricter with it.
        options: Arguments of river's detector that replace our defaults.
    """

    scaled = True
    """Whether the thresholds are in standard deviations, so that values must have unit scale."""

    def __init__(self, columns: int, options: Mapping[str, float]) -> None:
        self.columns, self.options = columns, options
        self.restart()

    def restart(self) -> None:
        """Start again with a new detector of river, from our defaults and the options."""
        raise NotImplementedError

    def update(self, value: float) -> int:
        """Process a value; return the direction of a change (+1, -1), or 0 for none."""
        raise NotImplementedError

    def state(self) -> Any:
        """Return the complete state, as JSON-compatible values."""
        raise NotImplementedError

    def load(self, state: Any) -> None:
        """Restore the state."""
        raise NotImplementedError


class _Adwin(ChangeTest):
    """ADWIN: two sub-windows with unequal means. The state is river's serialised buckets, about 1 kB."""

    def restart(self) -> None:
        self.inner = river().drift.ADWIN(**{"delta": 0.002 / self.columns, "clock": 1, **self.options})

    def update(self, value: float) -> int:
        before = self.inner.estimation
        self.inner.update(value)
        if not self.inner.drift_detected:
            return 0
        return 1 if self.inner.estimation > before else -1

    def state(self) -> str:
        return bytes(self.inner._helper.__getstate__()).hex()

    def load(self, state: str) -> None:
        self.inner._helper.__setstate__(bytes.fromhex(state))


class _PageHinkley(ChangeTest):
    """Page-Hinkley: a cumulative sum that leaves its extreme by more than a threshold."""

    _fields = ("_sum_increase", "_sum_decrease", "_min_increase", "_max_decrease")

    def restart(self) -> None:
        # For a step of delta = 1/2 the time between false alarms grows as exp(threshold), which explains log(columns).
        # For normal values 15 would suffice; the distribution of the mean of few errors has a long tail.
        defaults = {"delta": 0.5, "threshold": 25.0 + math.log(self.columns), "min_instances": 1}
        self.inner = river().drift.PageHinkley(**{**defaults, **self.options})

    def update(self, value: float) -> int:
        inner = self.inner
        inner.update(value)
        if not inner.drift_detected:
            return 0
        return 1 if inner._sum_increase - inner._min_increase > inner.threshold else -1

    def state(self) -> State | None:
        mean = self.inner._x_mean
        if mean.n == 0:
            return None
        return {name: getattr(self.inner, name) for name in self._fields} | {"n": mean.n, "mean": mean.get()}

    def load(self, state: State | None) -> None:
        self.restart()
        if state is not None:
            for name in self._fields:
                setattr(self.inner, name, state[name])
            self.inner._x_mean = river().stats.Mean._from_state(state["n"], state["mean"])


class _KSWIN(ChangeTest):
    """KSWIN: a Kolmogorov-Smirnov test of the newest values against as many older ones.

    It also detects changes of shape. A change that preserves the mean needs more values: try stat_size = 100 of 200.
    """

    scaled = False  # a rank test needs no scale

    def restart(self) -> None:
        defaults = {"alpha": 1e-5 / self.columns, "window_size": 60, "stat_size": 30, "seed": 0}
        self.inner = river().drift.KSWIN(**{**defaults, **self.options})

    def update(self, value: float) -> int:
        values = [*self.inner.window, value]
        self.inner.update(value)
        if not self.inner.drift_detected:
            return 0
        recent = values[-self.inner.stat_size :]
        return 1 if np.mean(recent) > np.mean(values[: -len(recent)]) else -1

    def state(self) -> State:
        version, words, _ = self.inner._rng.getstate()
        return {"window": list(self.inner.window), "n": self.inner.n, "draws": [version, list(words)]}

    def load(self, state: State) -> None:
        self.restart()
        self.inner.window.extend(state["window"])
        self.inner.n = state["n"]
        version, words = state["draws"]
        self.inner._rng.setstate((version, tuple(words), None))


class _DDM(ChangeTest):
    """DDM: an error rate that leaves its minimum by a number of standard deviations."""

    scaled = False

    def restart(self) -> None:
        # River's defaults of 30 rows and 3 deviations raise false alarms: if errors are rare, the minimum is often an
        # accident of the first rows. The rate covers all rows since the last drift, so the detection delay grows with
        # them; after a long stationary period the other tests are faster.
        self.inner = river().drift.binary.DDM(**{"warm_start": 1000, "drift_threshold": 4.0, **self.options})

    def update(self, value: float) -> int:
        self.inner.update(value)
        return int(self.inner.drift_detected)

    def state(self) -> State:
        inner = self.inner
        return {"n": inner._p.n, "rate": inner._p.get(), "p_min": inner._p_min, "s_min": inner._s_min}

    def load(self, state: State) -> None:
        self.restart()
        inner = self.inner
        inner._p = river().stats.Mean._from_state(state["n"], state["rate"])
        inner._p_min, inner._s_min = state["p_min"], state["s_min"]
        if inner._p_min is not None:
            inner._ps_min = inner._p_min + inner._s_min


TESTS: dict[str, type[ChangeTest]] = {
    "adwin": _Adwin,
    "page_hinkley": _PageHinkley,
    "kswin": _KSWIN,
    "ddm": _DDM,
}
