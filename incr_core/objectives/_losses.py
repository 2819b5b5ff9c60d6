"""Robust losses against label noise and outliers: the option `loss` of an objective."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from incr_core._util import fraction, not_negative, positive

__all__ = ["LOSSES", "Generalised", "Huber", "Loss", "Symmetric"]

Loss = Callable[[Tensor], Tensor]
"""Maps the cross-entropy of rows, or their error, to their loss of the same shape."""


class Generalised:
    """Generalised cross-entropy, between cross-entropy (q = 0) and the mean absolute error (q = 1).

        l = (1 - p_y^q) / q         as code: -expm1(-q ce) / q with ce = -log p_y

    Its gradient is p_y^q times that of cross-entropy, so rows that the model finds improbable, such as mislabelled
    ones, have little influence.

    Args:
        q: Exponent, in [0, 1].

    Example:
        >>> Generalised(q=1.0)(torch.tensor([0.1053605, 0.6931472]))
        tensor([0.1000, 0.5000])

    Reference:
        Zhang & Sabuncu 2018, "Generalized cross entropy loss for training deep neural networks with noisy labels"
        (arXiv 1805.07836), equation 6.
    """

    def __init__(self, q: float = 0.7) -> None:
        self.q = fraction("gce.q", q)

    def __call__(self, ce: Tensor) -> Tensor:
        """Return the loss for the given cross-entropy."""
        return ce if self.q == 0 else -torch.expm1(-self.q * ce) / self.q


class Symmetric:
    """Symmetric cross-entropy: cross-entropy plus the cross-entropy with exchanged distributions, with log 0 = -4.

        l = alpha ce + beta * 4 (1 - p_y)

    Args:
        alpha: Weight of the cross-entropy.
        beta: Weight of the reverse cross-entropy.

    Example:
        >>> Symmetric(alpha=1.0, beta=0.0)(torch.tensor([0.5]))
        tensor([0.5000])

    Reference:
        Wang et al. 2019, "Symmetric cross entropy for robust learning with noisy labels" (arXiv 1908.06112), equations
        5 to 7 with A = -4.
    """

    def __init__(self, alpha: float = 0.1, beta: float = 1.0) -> None:
        self.alpha = not_negative("sce.alpha", alpha)
        self.beta = not_negative("sce.beta", beta)

    def __call__(self, ce: Tensor) -> Tensor:
        """Return the loss for the given cross-entropy."""
        return ce * self.alpha if self.beta == 0 else self.alpha * ce - 4.0 * self.beta * torch.expm1(-ce)


class Huber:
    """Huber loss: the square of small errors, linear beyond them.

        l = e^2 where |e| <= delta, else delta (2 |e| - delta)

    It is twice Huber's rho, so that small errors have the squared error.

    Args:
        delta: Threshold, in units of the target's deviation, like the error.

    Example:
        >>> Huber(delta=1.0)(torch.tensor([0.5, -3.0]))
        tensor([0.2500, 5.0000])

    Reference:
        Huber 1964, "Robust estimation of a location parameter".
    """

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = positive("huber.delta", delta)

    def __call__(self, error: Tensor) -> Tensor:
        """Return the loss for the given error."""
        small = error.abs().clamp(max=self.delta)
        return small * (2 * error.abs() - small)


LOSSES: dict[str, Callable[..., Loss]] = {"gce": Generalised, "sce": Symmetric, "huber": Huber}
"""Robust losses by their name in job files. An objective's `losses` lists those it accepts."""
