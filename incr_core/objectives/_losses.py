"""Losses that a few wrong labels, or a few wild targets, cannot dominate: the option `loss` of an objective."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from incr_core._util import fraction, not_negative, positive

__all__ = ["LOSSES", "Generalised", "Huber", "Loss", "Symmetric"]

Loss = Callable[[Tensor], Tensor]
"""From the cross-entropy of rows, or their error, to their loss; of the same shape."""


class Generalised:
    """Generalised cross-entropy, between cross-entropy (q = 0) and the mean absolute error (q = 1).

        l = (1 - p_y^q) / q         as code: -expm1(-q ce) / q with ce = -log p_y

    Zhang & Sabuncu 2018, "Generalized cross entropy loss for training deep neural networks with noisy labels" (arXiv
    1805.07836), equation 6. Its gradient is p_y^q times that of cross-entropy: rows the model finds impossible, which
    wrong labels become, pull little.

    >>> Generalised(q=1.0)(torch.tensor([0.1053605, 0.6931472]))
    tensor([0.1000, 0.5000])
    """

    def __init__(self, q: float = 0.7) -> None:
        self.q = fraction("gce.q", q)

    def __call__(self, ce: Tensor) -> Tensor:
        """The loss of rows with that cross-entropy."""
        return ce if self.q == 0 else -torch.expm1(-self.q * ce) / self.q


class Symmetric:
    """Cross-entropy, and cross-entropy with the two distributions changed over, where log 0 is taken as -4.

        l = alpha ce + beta * 4 (1 - p_y)

    Wang et al. 2019, "Symmetric cross entropy for robust learning with noisy labels" (arXiv 1908.06112), equations 5 to
    7 with A = -4.

    >>> Symmetric(alpha=1.0, beta=0.0)(torch.tensor([0.5]))
    tensor([0.5000])
    """

    def __init__(self, alpha: float = 0.1, beta: float = 1.0) -> None:
        self.alpha = not_negative("sce.alpha", alpha)
        self.beta = not_negative("sce.beta", beta)

    def __call__(self, ce: Tensor) -> Tensor:
        """The loss of rows with that cross-entropy."""
        return ce * self.alpha if self.beta == 0 else self.alpha * ce - 4.0 * self.beta * torch.expm1(-ce)


class Huber:
    """The square of small errors, and a straight line beyond them.

        l = e^2 where |e| <= delta, else delta (2 |e| - delta)

    Huber 1964, "Robust estimation of a location parameter", twice his rho, so that it is the squared error where it is
    one. delta: in units of the target's spread, as the error is.

    >>> Huber(delta=1.0)(torch.tensor([0.5, -3.0]))
    tensor([0.2500, 5.0000])
    """

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = positive("huber.delta", delta)

    def __call__(self, error: Tensor) -> Tensor:
        """The loss of rows with that error."""
        small = error.abs().clamp(max=self.delta)
        return small * (2 * error.abs() - small)


LOSSES: dict[str, Callable[..., Loss]] = {"gce": Generalised, "sce": Symmetric, "huber": Huber}
"""By the name a job file gives them; an objective's `losses` says which of them it takes."""
