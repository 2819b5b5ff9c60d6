"""Implicit gradient of a quadratic penalty, which does not overshoot at any strength."""

from __future__ import annotations

from operator import is_

import torch
from torch import Tensor

from incr_core.numerics import writes
from incr_core.strategies._base import Context

__all__ = ["QuadraticPenalty"]


class QuadraticPenalty:
    """Add the gradient of strength / 2 * sum_j F_j (w_j - a_j)^2 in implicit form, in place:

        g_j += k_j / (1 + lr * k_j) * (w_j - a_j)        with k_j = strength * F_j

    The plain gradient is k_j (w_j - a_j). An SGD step along it overshoots the anchor if lr * k_j > 1 and diverges above
    2, which happens for a few stiff weights at any strength that is useful for the others. The division makes the step
    that of implicit Euler: the distance shrinks by the factor 1 / (1 + lr * k_j) for every k_j. If lr * k_j is small,
    the step is practically unchanged.

    The factors k_j / (1 + lr * k_j) are cached between steps, and recomputed when F, the strength or a learning rate
    changes. They are not part of the state, because another process computes the same factors.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0])); weight.grad = torch.zeros(1)
        >>> ctx = Context(None, None, torch.optim.SGD([weight], lr=0.5), None, None, names=["w"], parameters=[weight])
        >>> QuadraticPenalty()(ctx, [torch.ones(1)], [torch.tensor([1e9])], 1.0)
        >>> ctx.optimizer.step(); weight.data
        tensor([1.])

    Reference:
        Hairer & Wanner 1996, "Solving ordinary differential equations II", section IV.3.
    """

    def __init__(self) -> None:
        self._factors: list[Tensor] = []
        self._stiffness: list[Tensor] = []
        self._made_of: object = None

    def __call__(self, ctx: Context, anchors: list[Tensor], stiffness: list[Tensor], strength: float) -> None:
        """Edit the gradients.

        Args:
            ctx: The learner's context.
            anchors: a of the weights that have gradients, in order.
            stiffness: F of the same weights.
            strength: The factor on F.
        """
        weights, gradients, index = ctx.weights_and_gradients()
        factors = self._factors_of(stiffness, strength, ctx.rates(index))
        torch._foreach_addcmul_(gradients, torch._foreach_sub(weights, anchors), factors)

    def _factors_of(self, stiffness: list[Tensor], strength: float, lr: float | list[float]) -> list[Tensor]:
        # Torch counts in-place changes of a tensor for autograd. The counter detects a change of F by loading, merging
        # or moving.
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
