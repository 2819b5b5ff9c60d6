"""The gradient of a quadratic penalty, taken implicitly so that no strength makes a step overshoot."""

from __future__ import annotations

from operator import is_

import torch
from torch import Tensor

from incr_core.numerics import writes
from incr_core.strategies._base import Context

__all__ = ["QuadraticPenalty"]


class QuadraticPenalty:
    """Add to gradients what the penalty strength / 2 * sum_j F_j (w_j - a_j)^2 asks for, in place:

        g_j += k_j / (1 + lr * k_j) * (w_j - a_j)        with k_j = strength * F_j

    The plain gradient is k_j (w_j - a_j); a step of SGD along it overshoots the anchor once lr * k_j > 1 and diverges
    beyond 2, which a few stiff weights do to any strength that holds the others. The division makes the step that of
    implicit Euler: w_j comes closer by the factor 1 / (1 + lr * k_j), whatever k_j, and where lr * k_j is small nothing
    changes (Hairer & Wanner 1996, "Solving ordinary differential equations II", section IV.3).

    The factors k_j / (1 + lr * k_j) are cached between steps, and recomputed when F, the strength or a learning rate
    has changed. They are not part of the state: another process computes the same ones.

    >>> weight = torch.nn.Parameter(torch.tensor([3.0])); weight.grad = torch.zeros(1)
    >>> ctx = Context(None, None, torch.optim.SGD([weight], lr=0.5), None, None, names=["w"], parameters=[weight])
    >>> QuadraticPenalty()(ctx, [torch.ones(1)], [torch.tensor([1e9])], 1.0)
    >>> ctx.optimizer.step(); weight.data
    tensor([1.])
    """

    def __init__(self) -> None:
        self._factors: list[Tensor] = []
        self._stiffness: list[Tensor] = []
        self._made_of: object = None

    def __call__(self, ctx: Context, anchors: list[Tensor], stiffness: list[Tensor], strength: float) -> None:
        """Edit the gradients.

        anchors, stiffness: a and F of the weights that have gradients, in that order. lr: each weight's own.
        """
        weights, gradients, index = ctx.weights_and_gradients()
        factors = self._factors_of(stiffness, strength, ctx.rates(index))
        torch._foreach_addcmul_(gradients, torch._foreach_sub(weights, anchors), factors)

    def _factors_of(self, stiffness: list[Tensor], strength: float, lr: float | list[float]) -> list[Tensor]:
        # Torch counts in-place changes of a tensor, for autograd: so a change of F by loading, merging or moving is
        # noticed.
        made_of = (strength, lr, [writes(value) for value in stiffness])
        same = len(stiffness) == len(self._stiffness) and all(map(is_, stiffness, self._stiffness))
        if not same or made_of != self._made_of:
            rates = [rate * strength for rate in lr] if isinstance(lr, list) else lr * strength
            damping = torch._foreach_mul(stiffness, rates)
            torch._foreach_add_(damping, 1.0)
            factors = torch._foreach_div(stiffness, damping)
            torch._foreach_mul_(factors, strength)
            self._factors, self._stiffness, self._made_of = list(factors), list(stiffness), made_of
        return self._factors
