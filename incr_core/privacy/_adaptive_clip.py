"""Adaptive clipping: the clip follows a quantile of the updates' norms, with differential privacy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from incr_core._util import fraction, positive
from incr_core.errors import ArgumentError

__all__ = ["AdaptiveClip"]


class AdaptiveClip:
    """A clip that moves towards a quantile of the norms of updates.

        b = (sum_i (1[|d_i| <= C] - 1/2) + noise) / m + 1/2        C <- C exp(-rate (b - quantile))

    m is the expected number of clients. The noise on the count has the standard deviation `count_noise`. Out of a
    budget of `noise` per round, the updates receive `update_noise`, so that both together cost one step.

    Args:
        quantile: The target quantile.
        start: Initial clip.
        rate: Learning rate of the clip.
        count_noise: Standard deviation of the noise on the count. None takes a twentieth of the clients.

    Example:
        >>> clip = AdaptiveClip(quantile=0.5, start=1.0)
        >>> for _ in range(200):
        ...     clip.follow([2.0, 4.0, 6.0], clients=3, noise=0.0)
        >>> 3.5 < clip.clip < 4.5
        True

    Reference:
        Andrew et al. 2021, arXiv:1905.03871, algorithm 1.
    """

    def __init__(
        self, quantile: float = 0.5, start: float = 0.1, rate: float = 0.2, count_noise: float | None = None
    ) -> None:
        self.quantile = fraction("clip.quantile", quantile)
        self.clip = positive("clip.start", start)
        self.rate = positive("clip.rate", rate)
        self._count_noise = None if count_noise is None else positive("clip.count_noise", count_noise)

    def count_noise(self, clients: float) -> float:
        """Return the standard deviation of the noise on the count; by default a twentieth of the clients, as in the
        paper.
        """
        return clients / 20 if self._count_noise is None else self._count_noise

    def update_noise(self, noise: float, clients: float) -> float:
        """Return the noise on the updates that, with the noise on the count, costs as much as `noise`.

            z = (noise^-2 - (2 count_noise)^-2)^(-1/2)

        Raises:
            ArgumentError: The count alone would cost more than the step may.

        Example:
            >>> round(AdaptiveClip(count_noise=5.0).update_noise(1.0, 100), 4)
            1.005
        """
        count = self.count_noise(clients)
        left = noise**-2 - (2 * count) ** -2 if noise else math.inf
        if left <= 0:
            raise ArgumentError(
                f"clip.count_noise: expected more than half of noise = {noise:g}, got {count:g}; the count of updates "
                "within the clip would cost more than the whole budget; raise it (default: a twentieth of the "
                "clients), or give a number as clip"
            )
        return float(left**-0.5)

    def follow(self, norms: Sequence[float], clients: float, noise: float) -> None:
        """Update the clip with the norms of a round. `noise` is a standard normal number."""
        within = sum((norm <= self.clip) - 0.5 for norm in norms) + self.count_noise(clients) * noise
        self.clip *= math.exp(-self.rate * (within / clients + 0.5 - self.quantile))

    def state_dict(self) -> dict[str, Any]:
        """Return the clip."""
        return {"clip": self.clip}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the clip."""
        self.clip = float(state["clip"])
