"""Optimal convex combination of predictions, in closed form."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

__all__ = ["least_squares_mix"]


def least_squares_mix(errors: Tensor) -> Tensor:
    """Return argmin w^T E w over w >= 0 with sum_k w_k = 1, (K,), by enumerating subsets of experts.

    For a subset S the unconstrained weights are E_SS^-1 1 / (1^T E_SS^-1 1); the optimum is the best subset without a
    negative weight. If E is zero or not finite, the first expert gets weight 1.

    Args:
        errors: E, symmetric and positive semidefinite, float64.

    Shapes:
        errors: (K, K).

    Example:
        >>> [round(float(w), 3) for w in least_squares_mix(torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64))]
        [0.75, 0.25]
        >>> least_squares_mix(torch.zeros(2, 2, dtype=torch.float64)).tolist()
        [1.0, 0.0]
    """
    count, errors = len(errors), errors.detach()
    best, least = torch.zeros(count, dtype=torch.float64, device=errors.device), float("inf")
    best[0] = 1.0
    size = float(errors.diagonal().max())
    if not 0.0 < size < float("inf") or not bool(errors.isfinite().all()):
        return best
    scaled = errors / size
    ridge = 1e-9 * torch.eye(count, dtype=torch.float64, device=errors.device)  # experts may be identical
    for members in (list(some) for many in range(1, count + 1) for some in combinations(range(count), many)):
        part = (scaled + ridge)[members][:, members]
        weights = torch.linalg.solve(part, torch.ones(len(members), dtype=torch.float64, device=errors.device))
        weights = weights / weights.sum()
        value = float(weights @ part @ weights)
        if value < least and not bool((weights < 0).any()):
            least, best = value, torch.zeros_like(best)
            best[members] = weights
    return best
