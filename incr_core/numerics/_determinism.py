"""Deterministic arithmetic settings, the same on every engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic

__all__ = ["in_any_order", "settle_arithmetic"]


def settle_arithmetic(threads: int, device: str = "cpu") -> None:
    """Set the number of threads, flush denormals to zero, and make a GPU deterministic.

    Sums that are divided among another number of threads round differently. Denormals, which Adam's decaying moments
    become, are about five times slower than other numbers on common processors, and too small to matter.

    By default a GPU adds in the order in which its threads arrive, and rounds float32 to TensorFloat32 in convolutions;
    both are turned off. Torch warns once about operations that it cannot compute in a fixed order there.

    Args:
        threads: Number of threads.
        device: Device on which the process learns.

    Example:
        >>> settle_arithmetic(1)
        >>> torch.get_num_threads(), float(torch.tensor(1e-30) * 1e-10)
        (1, 0.0)
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    if device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is computed
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Uninitialised memory is never read here, so filling it would be wasted.
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # types know of no attribute
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]


@contextmanager
def in_any_order() -> Iterator[None]:
    """Allow a GPU to write in any order. All written places must be distinct.

    In a fixed order, indexed writes are sorted first, which takes ten times as long.

    Example:
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
