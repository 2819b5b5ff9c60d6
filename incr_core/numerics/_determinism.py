"""How this process computes: equal bits need equal arithmetic, so every engine settles it the same way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic

__all__ = ["in_any_order", "settle_arithmetic"]


def settle_arithmetic(threads: int, device: str = "cpu") -> None:
    """Use that many threads, and take denormal numbers for zero; on a GPU, compute the same bits each time.

    Sums split over another number of threads round differently. Denormals, which Adam's fading moments become, are
    some five times slower than other numbers on common processors, and too small to matter.

    device: where the process learns. A GPU sums in the order in which its threads happen to come, and rounds float32 to
    TensorFloat32 in convolutions, unless it is told not to. What torch cannot compute in a fixed order there, it warns
    of once.

    >>> settle_arithmetic(1)
    >>> torch.get_num_threads(), float(torch.tensor(1e-30) * 1e-10)
    (1, 0.0)
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    if device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is computed
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Nobody here reads what nobody has written.
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # types know of no attribute
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]


@contextmanager
def in_any_order() -> Iterator[None]:
    """Inside, a GPU may write in the order that comes: for places of which none is written twice.

    To write in a fixed order it sorts them first, which takes ten times as long.

    >>> torch.use_deterministic_algorithms(True)
    >>> with in_any_order():
    ...     torch.are_deterministic_algorithms_enabled()
    False
    >>> torch.are_deterministic_algorithms_enabled(); torch.use_deterministic_algorithms(False)
    True
    """
    if not torch.are_deterministic_algorithms_enabled():
        yield
        return
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=only_warns)
