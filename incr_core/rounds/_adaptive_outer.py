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
    """Step along the mean of differences to the anchor, each entry at a rate of its own.

        d = mean - anchor        m <- beta1 m + (1 - beta1) d        v <- as the subclass says
        next = anchor + lr * m / (sqrt(v) + tau)

    Without a correction of bias, as in the paper; v begins at tau^2. Only what merges by "mean" is moved; counters and
    statistics are taken as merged. Complex weights count as pairs of real ones.
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
        """The next v, from v and d^2."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, anchor: Mapping[str, Tensor], mean: Weights, rules: Mapping[str, str]) -> Weights:
        """One step; both moments are kept per entry."""
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
        """Both moments by entry."""
        return {"first": dict(self.first), "second": dict(self.second)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore them."""
        first, second = state["first"], state["second"]
        assert isinstance(first, dict)
        assert isinstance(second, dict)
        self.first, self.second = dict(first), dict(second)


class Adagrad(_Adaptive):
    """FedAdagrad: v <- v + d^2.

    >>> outer = Adagrad(lr=1.0, tau=1.0)
    >>> outer.step({"w": torch.tensor([0.0])}, {"w": torch.tensor([3.0])}, {})  # 3 / (sqrt(1 + 9) + 1)
    {'w': tensor([0.7208])}
    """

    def __init__(self, lr: float = 0.1, beta1: float = 0.0, tau: float = 1e-3) -> None:
        super().__init__(lr, beta1, tau)

    def following(self, second: Tensor, square: Tensor) -> Tensor:
        """The sum of squares."""
        return second + square


class _Decaying(_Adaptive):
    def __init__(self, lr: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> None:
        super().__init__(lr, beta1, tau)
        if not 0 <= beta2 < 1:
            raise ArgumentError(f"outer.beta2: expected a number from 0 to below 1, got {beta2!r}")
        self.beta2 = beta2


class Adam(_Decaying):
    """FedAdam: v <- beta2 v + (1 - beta2) d^2.

    >>> outer = Adam(lr=1.0, beta1=0.0, beta2=0.5, tau=1.0)
    >>> outer.step({"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0])}, {})  # 1 / (sqrt(0.5 + 0.5) + 1)
    {'w': tensor([0.5000])}
    """

    def following(self, second: Tensor, square: Tensor) -> Tensor:
        """The moving mean of squares."""
        return self.beta2 * second + (1 - self.beta2) * square


class Yogi(_Decaying):
    """FedYogi: v <- v - (1 - beta2) d^2 sign(v - d^2), which lets v shrink no faster than d^2 allows.

    >>> outer = Yogi(lr=1.0, beta1=0.0, beta2=0.5, tau=1.0)
    >>> outer.step({"w": torch.tensor([0.0])}, {"w": torch.tensor([2.0])}, {})  # 2 / (sqrt(1 + 0.5 * 4) + 1)
    {'w': tensor([0.7321])}
    """

    def following(self, second: Tensor, square: Tensor) -> Tensor:
        """Moved towards the square by a part of the square."""
        return second - (1 - self.beta2) * square * torch.sign(second - square)
