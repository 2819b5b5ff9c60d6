"""Clipping of a participant's update."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from incr_core.numerics import as_reals, narrowed, widened

__all__ = ["clipped", "moved"]


@torch.no_grad()
def clipped(
    weights: Mapping[str, Tensor], anchor: Mapping[str, Tensor], rules: Mapping[str, str], clip: float
) -> tuple[dict[str, Tensor], float]:
    """Return the change of the weights relative to the anchor, clipped to norm `clip`, and its norm before.

        d = w - a        d <- d min(1, clip / |d|)        |d| over all entries together

    The change is computed in float64, with complex numbers as pairs, for entries that merge as a mean. Other entries
    are left out. A change with a non-finite norm becomes zero.

    Args:
        weights: The weights.
        anchor: The anchor.
        rules: Merge rule of each entry.
        clip: Maximum norm.

    Example:
        >>> moved, norm = clipped({"w": torch.tensor([3.0, 4.0])}, {"w": torch.zeros(2)}, {"w": "mean"}, clip=1.0)
        >>> moved["w"], norm
        (tensor([0.6000, 0.8000], dtype=torch.float64), 5.0)
    """
    moved = {
        name: as_reals(widened(value)).double() - as_reals(widened(anchor[name])).double()
        for name, value in weights.items()
        if rules.get(name, "mean") == "mean"
    }
    norm = math.hypot(*(float(torch.linalg.vector_norm(value)) for value in moved.values()))
    if not math.isfinite(norm):
        return {name: torch.zeros_like(value) for name, value in moved.items()}, norm
    factor = min(1.0, clip / norm) if norm else 1.0
    return {name: value * factor for name, value in moved.items()}, norm


@torch.no_grad()
def moved(anchor: Mapping[str, Tensor], by: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the anchor plus the change from `clipped`; other entries stay as they are.

    Example:
        >>> moved({"w": torch.ones(2), "seen": torch.tensor(3)}, {"w": torch.tensor([1.0, 0.0]).double()})
        {'w': tensor([2., 1.]), 'seen': tensor(3)}
    """
    found = {}
    for name, value in anchor.items():
        step = by.get(name)
        if step is None:
            found[name] = value
            continue
        start = widened(value)
        there = as_reals(start).double() + step
        whole = torch.view_as_complex(there).to(start.dtype) if start.is_complex() else there.to(start.dtype)
        found[name] = narrowed(whole, value.dtype)
    return found
