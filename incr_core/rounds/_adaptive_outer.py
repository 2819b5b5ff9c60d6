"""Adaptive outer steps: FedAdagrad, FedAdam and FedYogi (Reddi et al. 2021, arXiv:2003.00295, algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from incr_core.errors import ArgumentError
from incr_core.numerics import as_reals, narrowed, widened
from incr_core.rounds._outer import Outer
from incr_core.update import Weights

__all__ = ["Adagrad", "Adam", "Yogi"]


class _Adaptive(Outer):
    """Step along the mean difference from the anchor, with an adaptive rate for each element.

        d = mean - anchor        m <- beta1 m + (1 - beta1) d        v <- defined by the subclass
        next = anchor + lr * m / (sqrt(v) + tau)

    There is no bias correction, as in the paper; v starts at tau^2. Only entries that merge by "mean" are moved;
    counters and statistics keep their merged values. Complex weights count as pairs of real numbers.

    Args:
        lr: Outer learning rate.
        beta1: Decay of the first moment.
        tau: Bound on the rate of an element.
    """

    def __init__(self, lr: float, beta1: float, tau: float) -> None:
        if not lr > 0:
            raise ArgumentError(f"outer.lr: expected a number above 0, got {lr!r}")
        if not 0 <= beta1 < 1:
            raise ArgumentError(f"outer.beta1: expected a number from 0 to below 1, got {beta1!r}")
        if not tau > 0:
            raise ArgumentError(f"outer.tau: expected a number above 0, got {tau!r}; it bounds the rate of an entry")
        self.lr, self.beta1, self.tau = lr, beta1, tau
        self.first: dict[str, Tensor] = {}
        self.second: dict[str, Tensor] = {}

    def following(self, second: Tensor, square: Tensor) -> Tensor:
        """Return the next v, from v and d^2."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, anchor: Mapping[str, Tensor], mean: Weights, rules: Mapping[str, str]) -> Weights:
        """Take one step; both moments are kept per entry."""
        moved: Weights = {}
        for name, value in mean.items():
            if rules.get(name, "mean") != "mean":
                moved[name] = value
                continue
            start = widened(anchor[name])
            difference = as_reals(widened(value) - start)
            first = self.first.get(name, torch.zeros_like(difference))
            second = self.second.get(name, torch.full_like(difference, self.tau**2))
            self.first[name] = first = self.beta1 * first + (1 - self.beta1) * difference
            self.second[name] = second = self.following(second, difference.square())
            step = self.lr * first / (second.sqrt() + self.tau)
            moved[name] = narrowed(start + (torch.view_as_complex(step) if start.is_complex() else step), value.dtype)
        return moved

    def state_dict(self) -> dict[str, object]:
        """Return both moments by entry."""
        return {"first": dict(self.first), "second": dict(self.second)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore both moments."""
        first, second = state["first"], state["second"]
        assert isinstance(first, dict)
        assert isinstance(second, dict)
        self.first, self.second = dict(first), dict(second)


class Adagrad(_Adaptive):
    """FedAdagrad: v <- v + d^2.

    Example:
        >>> outer = Adagrad(lr=1.0, tau=1.0)
        >>> outer.step({"w": torch.tensor([0.0])}, {"w": torch.tensor([3.0])}, {})  # 3 / (sqrt(1 + 9) + 1)
        {'w': tensor([0.7208])}
    """

    def __init__(self, lr: float = 0.1, beta1: float = 0.0, tau: float = 1e-3) -> None:
        super().__init__(lr, beta1, tau)

    def following(self, second: Tensor, square: Tensor) -> Tensor:
        """Return the sum of squares."""
        return second + square


class _Decaying(_Adaptive):
    def __init__(self, lr: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> None:
        super().__init__(lr, beta1, tau)
        if not 0 <= beta2 < 1:
            raise ArgumentError(f"outer.beta2: expected a number from 0 to below 1, got {beta2!r}")
        self.beta2 = beta2


class Adam(_Decaying):
    """FedAdam: v <- beta2 v + (1 - beta2) d^2.

    Example:
        >>> outer = Adam(lr=1.0, beta1=0.0, beta2=0.5, tau=1.0)
        >>> outer.step({"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0])}, {})  # 1 / (sqrt(0.5 + 0.5) + 1)
        {'w': tensor([0.5000])}
    """

    def following(self, second: Tensor, square: Tensor) -> Tensor:
        """Return the moving mean of squares."""
        return self.beta2 * second + (1 - self.beta2) * square


class Yogi(_Decaying):
    """FedYogi: v <- v - (1 - beta2) d^2 sign(v - d^2), so that v shrinks no faster than d^2 allows.

    Example:
        >>> outer = Yogi(lr=1.0, beta1=0.0, beta2=0.5, tau=1.0)
        >>> outer.step({"w": torch.tensor([0.0])}, {"w": torch.tensor([2.0])}, {})  # 2 / (sqrt(1 + 0.5 * 4) + 1)
        {'w': tensor([0.7321])}
    """

    def following(self, second: Tensor, square: Tensor) -> Tensor:
        """Return v moved towards the square by a fraction of the square."""
        return second - (1 - self.beta2) * square * torch.sign(second - square)
