"""The pull of a quadratic penalty, taken so that no strength makes it overshoot."""

from __future__ import annotations

import torch
from torch import Tensor

from incr_core.strategy import Context

__all__ = ["pull"]


def pull(ctx: Context, anchors: list[Tensor], stiffness: list[Tensor], strength: float) -> None:
    """Add to gradients what the penalty strength / 2 * sum_j F_j (w_j - a_j)^2 asks for, in place:

        g_j += k_j / (1 + lr * k_j) * (w_j - a_j)        with k_j = strength * F_j

    The plain gradient is k_j (w_j - a_j); a step of SGD along it overshoots the anchor once lr * k_j > 1 and diverges
    beyond 2, which a few stiff weights do to any strength that holds the others. The division makes the step that of
    implicit Euler: w_j comes closer by the factor 1 / (1 + lr * k_j), whatever k_j, and where lr * k_j is small nothing
    changes (Hairer & Wanner 1996, "Solving ordinary differential equations II", section IV.3).

    anchors, stiffness: a and F of the weights that have gradients, in that order. lr: each weight's own.

    >>> weight = torch.nn.Parameter(torch.tensor([3.0])); weight.grad = torch.zeros(1)
    >>> ctx = Context(None, None, torch.optim.SGD([weight], lr=0.5), None, None, names=["w"], parameters=[weight])
    >>> pull(ctx, [torch.ones(1)], [torch.tensor([1e9])], 1.0)
    >>> ctx.optimizer.step(); weight.data
    tensor([1.])
    """
    weights, gradients, index = ctx.weights_and_gradients()
    lr = ctx.rates(index)
    force = torch._foreach_sub(weights, anchors)
    torch._foreach_mul_(force, stiffness)
    damping = torch._foreach_mul(stiffness, [rate * strength for rate in lr] if isinstance(lr, list) else lr * strength)
    torch._foreach_add_(damping, 1.0)
    torch._foreach_addcdiv_(gradients, force, damping, value=strength)
