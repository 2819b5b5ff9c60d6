"""The outer step: from the anchor and the mean of the updates to the next anchor.

On a cluster this is DiLoCo's outer optimiser (Douillard et al. 2023, arXiv:2311.08105); on federated clients the same
function is FedAvg (McMahan et al. 2017) or FedAvgM (Hsu et al. 2019).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from incr_core.errors import ArgumentError
from incr_core.numerics import narrowed, widened
from incr_core.update import Weights

__all__ = ["Mean", "Momentum", "Nesterov", "Outer"]


class Outer:
    """From (anchor, mean) to the next anchor. Its state travels with the commit."""

    needs_anchor: bool = True

    def step(self, anchor: Mapping[str, Tensor], mean: Weights, rules: Mapping[str, str]) -> Weights:
        """The next anchor."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, object]:
        """The state between rounds."""
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what `state_dict` returned."""


class Mean(Outer):
    """The mean itself: FedAvg, periodic weight averaging.

    >>> Mean().step({}, {"w": torch.ones(1)}, {})
    {'w': tensor([1.])}
    """

    needs_anchor = False

    def step(self, anchor: Mapping[str, Tensor], mean: Weights, rules: Mapping[str, str]) -> Weights:
        """The mean, unchanged."""
        return mean


class _Velocity(Outer):
    """Treat the difference between anchor and mean as a gradient, and gather it in a velocity.

        d = anchor - mean        v <- momentum * v + d        next = anchor - lr * (as the subclass says)

    Only what merges by "mean" is moved; counters and statistics are taken as merged.
    """

    def __init__(self, lr: float, momentum: float) -> None:
        for name, value in (("lr", lr), ("momentum", momentum)):
            if not isinstance(value, int | float) or value < 0:
                raise ArgumentError(f"outer.{name}: expected a number of at least 0, got {value!r}")
        if momentum >= 1:
            raise ArgumentError(f"outer.momentum: expected less than 1, got {momentum!r}: no step would ever fade")
        self.lr = lr
        self.momentum = momentum
        self.velocity: dict[str, Tensor] = {}

    def step_of(self, direction: Tensor, velocity: Tensor) -> Tensor:
        """What is stepped along."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, anchor: Mapping[str, Tensor], mean: Weights, rules: Mapping[str, str]) -> Weights:
        """One step; the velocity is kept per entry."""
        following: Weights = {}
        for name, value in mean.items():
            if rules.get(name, "mean") != "mean":
                following[name] = value
                continue
            start = widened(anchor[name])
            direction = start - widened(value)
            velocity = self.velocity.get(name)
            velocity = direction if velocity is None else self.momentum * velocity + direction
            self.velocity[name] = velocity
            following[name] = narrowed(start - self.lr * self.step_of(direction, velocity), value.dtype)
        return following

    def state_dict(self) -> dict[str, object]:
        """The velocity by entry."""
        return {"velocity": dict(self.velocity)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore it."""
        velocity = state["velocity"]
        assert isinstance(velocity, dict)
        self.velocity = dict(velocity)


class Nesterov(_Velocity):
    """Treat the difference between anchor and mean as a gradient, and step along it with Nesterov momentum.

        d = anchor - mean        v <- momentum * v + d        next = anchor - lr * (d + momentum * v)

    With momentum 0 and lr 1 this is
    `Mean`, to rounding. Douillard et al. 2023, section 3, use lr 0.7 and momentum 0.9.

    >>> outer = Nesterov(lr=1.0, momentum=0.5)
    >>> outer.step({"w": torch.tensor([1.0])}, {"w": torch.tensor([0.0])}, {"w": "mean"})
    {'w': tensor([-0.5000])}
    """

    def __init__(self, lr: float = 0.7, momentum: float = 0.9) -> None:
        super().__init__(lr, momentum)

    def step_of(self, direction: Tensor, velocity: Tensor) -> Tensor:
        """Where the velocity will be."""
        return direction + self.momentum * velocity


class Momentum(_Velocity):
    """Treat the difference between anchor and mean as a gradient, and step along it with heavy-ball momentum.

        d = anchor - mean        v <- momentum * v + d        next = anchor - lr * v

    Hsu et al. 2019, arXiv:1909.06335, section 4: FedAvgM.

    >>> outer = Momentum(lr=1.0, momentum=0.5)
    >>> first = outer.step({"w": torch.tensor([1.0])}, {"w": torch.tensor([0.0])}, {"w": "mean"})
    >>> outer.step(first, first, {"w": "mean"})
    {'w': tensor([-0.5000])}
    """

    def __init__(self, lr: float = 1.0, momentum: float = 0.9) -> None:
        super().__init__(lr, momentum)

    def step_of(self, direction: Tensor, velocity: Tensor) -> Tensor:
        """The velocity."""
        return velocity
