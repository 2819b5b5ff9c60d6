"""An anchor and an update of weights that merge in different ways, for tests of codings."""

from __future__ import annotations

import torch

from incr_core.update import Weights

__all__ = ["RULES", "learned"]

RULES = {"w": "mean", "v": "mean", "seen": "sum", "running": "average"}


def learned(seed: int = 0) -> tuple[Weights, Weights]:
    """An anchor, and the weights of an update."""
    draw = torch.Generator().manual_seed(seed)
    anchor = {
        "seen": torch.tensor(7),
        "w": torch.randn(40, 30, generator=draw),
        "running": torch.randn(5, generator=draw),
        "v": torch.randn(30, generator=draw).bfloat16(),
    }
    moved = {
        name: (value + 0.1 * torch.randn(value.shape, generator=draw)).to(value.dtype) for name, value in anchor.items()
    }
    return anchor, {**moved, "seen": torch.tensor(9)}
