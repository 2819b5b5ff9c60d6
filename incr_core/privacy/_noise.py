"""Gaussian noise that nobody can foresee, and that its owner can draw once more."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

__all__ = ["SecretNoise"]


class SecretNoise:
    """Normal numbers out of a secret and what they are for.

    secret: kept by whoever adds the noise. purpose: what it is added to, all of it: the same noise on two sums would
    tell their difference. Equal secrets and purposes give equal numbers, so that who was killed answers as before.

        u = SHAKE-256(HMAC-SHA-256(secret, purpose))        n = sqrt(-2 log u_1) cos(2 pi u_2), and sin

    torch's generator on a CPU knows 2^32 seeds only, and numpy's were not made to keep a secret: whoever sees a noisy
    sum could try them. The sum of four numbers, halved, is one of the same distribution, and of many more values than
    one has that was made of a float (Holohan and Braghin 2021, arXiv:2107.10138).

    >>> noise = SecretNoise(b"secret", b"round 7")
    >>> first = noise.like({"w": torch.zeros(10_000)})["w"]
    >>> abs(float(first.mean())) < 0.05, abs(float(first.std()) - 1) < 0.05
    (True, True)
    >>> torch.equal(SecretNoise(b"secret", b"round 7").like({"w": torch.zeros(10_000)})["w"], first)
    True
    >>> torch.equal(noise.like({"w": torch.zeros(10_000)})["w"], first)  # it goes on
    False
    """

    def __init__(self, secret: bytes, purpose: bytes) -> None:
        self._key = hmac.new(secret, purpose, hashlib.sha256).digest()
        self._drawn = 0

    def normal(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The next normal numbers, (count,)."""
        half = (count + 1) // 2
        total = np.zeros(2 * half)
        for _ in range(4):
            total += self._pairs(half)
        return total[:count] / 2.0

    def _pairs(self, half: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """2 * half normal numbers, by Box and Muller."""
        stream = hashlib.shake_256(self._key + self._drawn.to_bytes(8, "big"))
        self._drawn += 1
        words = np.frombuffer(stream.digest(16 * half), np.uint64).reshape(2, half)
        first, second = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        radius, angle = np.sqrt(-2.0 * np.log(first)), 2.0 * np.pi * second
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])

    def like(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Standard normal numbers of the shapes of these tensors, in float64."""
        # By name: a version that was loaded has its weights in another order than the model that it was made from.
        named = sorted(tensors.items())
        counts = [value.numel() for _, value in named]
        parts = torch.split(torch.from_numpy(self.normal(sum(counts))), counts)
        return {name: part.view(value.shape) for (name, value), part in zip(named, parts, strict=True)}
