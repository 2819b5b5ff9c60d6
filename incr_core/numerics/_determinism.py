"""How this process computes: equal bits need equal arithmetic, so every engine settles it the same way."""

from __future__ import annotations

import torch

__all__ = ["settle_arithmetic"]


def settle_arithmetic(threads: int) -> None:
    """Use that many threads, and take denormal numbers for zero.

    Sums split over another number of threads round differently. Denormals, which Adam's fading moments become, are
    some five times slower than other numbers on common processors, and too small to matter.

    >>> settle_arithmetic(1)
    >>> torch.get_num_threads(), float(torch.tensor(1e-30) * 1e-10)
    (1, 0.0)
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
