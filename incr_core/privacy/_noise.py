"""Secret Gaussian noise, unpredictable for others and reproducible for its owner."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

__all__ = ["SecretNoise"]


class SecretNoise:
    """Normal numbers derived from a secret and a purpose.

        u = SHAKE-256(HMAC-SHA-256(secret, purpose))        n = sqrt(-2 log u_1) cos(2 pi u_2), and sin

    Equal secrets and purposes give equal numbers, so that a restarted process replies as before. Torch's CPU generator
    has only 2^32 seeds, and numpy's generators are not cryptographic: an observer of a noisy sum could try the seeds.
    Each number is the sum of four, halved: it has the same distribution and takes many more values than a number made
    from a single float (Holohan and Braghin 2021).

    Args:
        secret: Known only to the party that adds the noise.
        purpose: Identifies the sum to which the noise is added, completely: the same noise on two sums would reveal
            their difference.

    Example:
        >>> noise = SecretNoise(b"secret", b"round 7")
        >>> first = noise.like({"w": torch.zeros(10_000)})["w"]
        >>> abs(float(first.mean())) < 0.05, abs(float(first.std()) - 1) < 0.05
        (True, True)
        >>> torch.equal(SecretNoise(b"secret", b"round 7").like({"w": torch.zeros(10_000)})["w"], first)
        True
        >>> torch.equal(noise.like({"w": torch.zeros(10_000)})["w"], first)  # it goes on
        False

    Reference:
        Holohan and Braghin 2021, arXiv:2107.10138.
    """

    def __init__(self, secret: bytes, purpose: bytes) -> None:
        self._key = hmac.new(secret, purpose, hashlib.sha256).digest()
        self._drawn = 0

    def normal(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return the next normal numbers, (count,)."""
        half = (count + 1) // 2
        total = np.zeros(2 * half)
        for _ in range(4):
            total += self._pairs(half)
        return total[:count] / 2.0

    def _pairs(self, half: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return 2 * half normal numbers, by the Box-Muller method."""
        stream = hashlib.shake_256(self._key + self._drawn.to_bytes(8, "big"))
        self._drawn += 1
        words = np.frombuffer(stream.digest(16 * half), np.uint64).reshape(2, half)
        first, second = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        radius, angle = np.sqrt(-2.0 * np.log(first)), 2.0 * np.pi * second
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])

    def like(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return standard normal numbers in the shapes of these tensors, float64."""
        # By name, because a loaded version may have its weights in another order than the original model.
        named = sorted(tensors.items())
        counts = [value.numel() for _, value in named]
        parts = torch.split(torch.from_numpy(self.normal(sum(counts))), counts)
        return {name: part.view(value.shape) for (name, value), part in zip(named, parts, strict=True)}
