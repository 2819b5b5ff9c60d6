"""Privacy accounting: Renyi differential privacy of the Gaussian mechanism, composed over steps.

A step adds noise of standard deviation `noise * clip` to a sum in which each participant's part has at most norm
`clip`. If each part is included with probability q, independently and secretly (Poisson sampling), the Renyi divergence
at order a is

    r(a) = log E_{z ~ N(0, s^2)} [ (1 - q + q exp((2 z - 1) / (2 s^2)))^a ] / (a - 1)        s = noise
    r(a) = a / (2 s^2)                                                                        q = 1

(Mironov et al. 2019, arXiv:1908.10530, section 3). Divergences of steps add up, even if later steps depend on earlier
results. The sum is converted to epsilon at a given delta by proposition 12 of Canonne, Kamath and Steinke 2020
(arXiv:2004.00010):

    epsilon = min_a  r(a) + log(1 - 1/a) - log(delta a) / (a - 1)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["Accountant", "least_noise", "sampled_gaussian"]

Floats = np.ndarray[Any, np.dtype[np.float64]]

ORDERS: Floats = np.array([*(1 + x / 10 for x in range(1, 100)), *range(11, 64), 128, 256, 512, 1024], np.float64)
"""Orders of the divergence; epsilon is the minimum over them."""

REACH = 12.0
"""Number of standard deviations around a peak beyond which the Gaussian is negligible."""

PER_WIDTH = 16
"""Grid points per standard deviation; the trapezoidal rule is then exact to float64 for these smooth integrands."""


class Accountant:
    """The spent budget, as a sum of steps; their order does not matter.

    Example:
        >>> spent = Accountant()
        >>> spent.add(noise=1.0, times=2)
        >>> round(spent.epsilon(1e-5), 2)
        7.08
        >>> spent.epsilon(1e-5) < spent.and_then(noise=1.0, sampled=0.1).epsilon(1e-5)
        True
        >>> again = Accountant()
        >>> again.load_state_dict(spent.state_dict())
        >>> again.epsilon(1e-5) == spent.epsilon(1e-5)
        True
    """

    def __init__(self) -> None:
        self._steps: dict[tuple[float, float], int] = {}

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, noise: float, sampled: float = 1.0, times: int = 1) -> None:
        """Add steps.

        Args:
            noise: Standard deviation of the noise, relative to the largest part.
            sampled: Probability with which each part is included.
            times: Number of steps.
        """
        if times:
            key = (float(noise), float(sampled))
            self._steps[key] = self._steps.get(key, 0) + times

    def and_then(self, noise: float, sampled: float = 1.0, times: int = 1) -> Accountant:
        """Return the account with these steps added; this one is unchanged."""
        other = Accountant()
        other._steps = dict(self._steps)
        other.add(noise, sampled, times)
        return other

    def epsilon(self, delta: float) -> float:
        """Return the epsilon of all steps at this delta; 0 without steps."""
        if not self._steps:
            return 0.0
        # Sorted, so that a resumed account has the same bits.
        spent = sum(times * sampled_gaussian(*key) for key, times in sorted(self._steps.items()))
        with np.errstate(over="ignore"):
            told = spent + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
            # epsilon is 0 if the divergence already bounds the total variation below delta.
            told = np.where(delta**2 + np.expm1(-spent) > 0, 0.0, told)
        return max(0.0, float(np.min(told)))

    def state_dict(self) -> dict[str, Any]:
        """Return the steps, as [noise, sampled, times]."""
        return {"steps": [[*key, times] for key, times in sorted(self._steps.items())]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the steps."""
        self._steps = {(float(noise), float(sampled)): int(times) for noise, sampled, times in state["steps"]}


@lru_cache(maxsize=256)
def sampled_gaussian(noise: float, sampled: float) -> Floats:
    """Return the Renyi divergence of one step at each of `ORDERS`.

    Example:
        >>> float(sampled_gaussian(2.0, 1.0)[ORDERS == 8.0][0])
        1.0
        >>> bool((sampled_gaussian(2.0, 0.1) < sampled_gaussian(2.0, 1.0)).all())
        True
    """
    if sampled >= 1.0:
        return ORDERS / (2 * noise**2)
    return np.array([_log_moment(noise, sampled, order) / (order - 1) for order in ORDERS])


def _log_moment(noise: float, sampled: float, order: float) -> float:
    """Return log E[(1 - q + q exp((2 z - 1) / (2 s^2)))^a], z ~ N(0, s^2), by the trapezoidal rule.

    The integrand has its peaks between 0 and a, each of width s or wider.
    """
    step = noise / PER_WIDTH
    z = np.arange(-REACH * noise, order + REACH * noise, step)
    ratio = np.logaddexp(math.log1p(-sampled), math.log(sampled) + (2 * z - 1) / (2 * noise**2))
    logs = order * ratio - z**2 / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi))
    highest = float(logs.max())
    return max(0.0, highest + math.log(float(np.exp(logs - highest).sum()) * step))


def least_noise(epsilon: float, delta: float, times: int = 1) -> float:
    """Return the smallest noise, to three digits, with which that many steps stay within a budget; for messages.

    Example:
        >>> least_noise(8.0, 1e-5)
        0.638
    """
    low, high = 1e-3, 1e3
    while high - low > 1e-4 * high:
        middle = math.sqrt(low * high)
        spent = Accountant()
        spent.add(middle, times=times)
        low, high = (low, middle) if spent.epsilon(delta) <= epsilon else (middle, high)
    return math.ceil(high * 1000) / 1000
