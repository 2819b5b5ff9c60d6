"""Differentially private mean of clipped updates: DP-FedAvg."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from incr_core.numerics import as_reals, widened
from incr_core.privacy import AdaptiveClip, SecretNoise, clipped, moved
from incr_core.rounds._aggregation import Aggregation
from incr_core.update import Update, Weights

__all__ = ["PrivateMean"]


class PrivateMean(Aggregation):
    """Mean of clipped updates with Gaussian noise. Every client counts equally, and moves weights by at most `clip /
    clients`.

        w = a + (sum_i clip(w_i - a) + N(0, (noise clip)^2)) / clients

    Entries that do not merge as a mean stay unchanged. A round in which no client has learned moves the weights too;
    otherwise it would reveal that no client was drawn.

    Args:
        noise: Standard deviation of the noise, relative to the clip.
        clip: A number, or a clip that follows the updates.
        secret: Secret from which the noise is derived, together with the sum that it hides, so that it is never added
            to two sums.

    Attributes:
        clients: Expected number of clients in a round; the sum must not reveal the actual number.

    Example:
        >>> mean = PrivateMean(noise=0.0, clip=1.0, secret=b"s")
        >>> mean.clients = 2
        >>> two = [Update({"w": torch.tensor([value])}, num_rows=1) for value in (0.5, 9.0)]
        >>> mean.merge(two, {"w": torch.zeros(1)}, {"w": "mean"})
        {'w': tensor([0.7500])}

    Reference:
        McMahan et al. 2018, arXiv:1710.06963.
    """

    moves_alone: ClassVar[bool] = True

    def __init__(self, noise: float, clip: float | AdaptiveClip, secret: bytes) -> None:
        self.noise, self._clip, self._secret = noise, clip, secret
        self.clients, self._merged = 1.0, 0

    @property
    def clip(self) -> float:
        """The current clip."""
        return self._clip.clip if isinstance(self._clip, AdaptiveClip) else self._clip

    @torch.no_grad()
    def merge(self, updates: Sequence[Update], anchor: Mapping[str, Tensor], rules: Mapping[str, str]) -> Weights:
        """Return the noisy mean."""
        clip, norms = self.clip, list[float]()
        sums = {
            name: torch.zeros_like(as_reals(widened(value)), dtype=torch.float64)
            for name, value in anchor.items()
            if rules.get(name, "mean") == "mean"
        }
        for update in updates:
            if update.num_rows > 0:
                steps, norm = clipped(update.weights, anchor, rules, clip)
                norms.append(norm)
                for name, step in steps.items():
                    sums[name] += step
        source = SecretNoise(self._secret, self._purpose(sums))
        noise = self.update_noise()
        if isinstance(self._clip, AdaptiveClip):
            self._clip.follow(norms, self.clients, float(source.normal(1)[0]))
        drawn = source.like(sums)
        self._merged += 1
        return moved(
            anchor, {name: (total + noise * clip * drawn[name]) / self.clients for name, total in sums.items()}
        )

    def update_noise(self) -> float:
        """Return the noise on the updates, relative to the clip; above `noise` if the count of an adaptive clip is
        noisy too.

        Raises:
            ArgumentError: The noise on the count uses up the whole budget.
        """
        adaptive = isinstance(self._clip, AdaptiveClip)
        return self._clip.update_noise(self.noise, self.clients) if adaptive else self.noise  # type: ignore[union-attr]

    def shares(self, updates: Sequence[Update]) -> list[float] | None:
        """Return equal shares."""
        return [1 / self.clients if update.num_rows else 0.0 for update in updates]

    def _purpose(self, sums: Mapping[str, Tensor]) -> bytes:
        found = hashlib.sha256(self._merged.to_bytes(8, "big"))
        for name in sorted(sums):
            found.update(sums[name].contiguous().view(-1).numpy().data)
        return found.digest()

    def state_dict(self) -> dict[str, Any]:
        """Return the number of rounds, and the state of the clip."""
        clip = self._clip.state_dict() if isinstance(self._clip, AdaptiveClip) else {}
        return {"merged": self._merged, **clip}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        self._merged = int(state["merged"])
        if isinstance(self._clip, AdaptiveClip):
            self._clip.load_state_dict(state)
