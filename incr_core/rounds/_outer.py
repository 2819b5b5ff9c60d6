"""The outer step: from the anchor and the mean of the updates to the next anchor.

On a cluster this is DiLoCo's outer optimiser (Douillard et al. 2023, arXiv:2311.08105). On federated clients the same
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
    """Base class of the outer steps, from (anchor, mean) to the next anchor. The state is part of a commit."""

    needs_anchor: bool = True

    def step(self, anchor: Mapping[str, Tensor], mean: Weights, rules: Mapping[str, str]) -> Weights:
        """Return the next anchor."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, object]:
        """Return the state between rounds."""
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore the state."""


class Mean(Outer):
    """The mean itself: FedAvg, periodic weight averaging.

    Example:
        >>> Mean().step({}, {"w": torch.ones(1)}, {})
        {'w': tensor([1.])}
    """

    needs_anchor = False

    def step(self, anchor: Mapping[str, Tensor], mean: Weights, rules: Mapping[str, str]) -> Weights:
        """Return the mean, unchanged."""
        return mean


class _Velocity(Outer):
    """Treat the difference between anchor and mean as a gradient, and accumulate it in a velocity.

        d = anchor - mean        v <- momentum * v + d        next = anchor - lr * (defined by the subclass)

    Only entries that merge by "mean" are moved; counters and statistics keep their merged values.

    Args:
        lr: Outer learning rate.
        momentum: Decay of the velocity, in [0, 1).
    """

    def __init__(self, lr: float, momentum: float) -> None:
        for name, value in (("lr", lr), ("momentum", momentum)):
            if not isinstance(value, int | float) or value < 0:
                raise ArgumentError(f"outer.{name}: expected a number of at least 0, got {value!r}")
        if momentum >= 1:
            raise ArgumentError(f"outer.momentum: expected less than 1, got {momentum!r}: steps would never decay")
        self.lr = lr
        self.momentum = momentum
        self.velocity: dict[str, Tensor] = {}

    def step_of(self, direction: Tensor, velocity: Tensor) -> Tensor:
        """Return the direction of the step."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, anchor: Mapping[str, Tensor], mean: Weights, rules: Mapping[str, str]) -> Weights:
        """Take one step; the velocity is kept per entry."""
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
        """Return the velocity by entry."""
        return {"velocity": dict(self.velocity)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore the velocity."""
        velocity = state["velocity"]
        assert isinstance(velocity, dict)
        self.velocity = dict(velocity)


class Nesterov(_Velocity):
    """Treat the difference between anchor and mean as a gradient, and take a step with Nesterov momentum.

        d = anchor - mean        v <- momentum * v + d        next = anchor - lr * (d + momentum * v)

    With momentum 0 and lr 1 this is `Mean`, to rounding. The paper uses lr 0.7 and momentum 0.9.

    Args:
        lr: Outer learning rate.
        momentum: Decay of the velocity, in [0, 1).

    Example:
        >>> outer = Nesterov(lr=1.0, momentum=0.5)
        >>> outer.step({"w": torch.tensor([1.0])}, {"w": torch.tensor([0.0])}, {"w": "mean"})
        {'w': tensor([-0.5000])}

    Reference:
        Douillard et al. 2023, arXiv:2311.08105, section 3.
    """

    def __init__(self, lr: float = 0.7, momentum: float = 0.9) -> None:
        super().__init__(lr, momentum)

    def step_of(self, direction: Tensor, velocity: Tensor) -> Tensor:
        """Return the lookahead direction."""
        return direction + self.momentum * velocity


class Momentum(_Velocity):
    """Treat the difference between anchor and mean as a gradient, and take a step with heavy-ball momentum.

        d = anchor - mean        v <- momentum * v + d        next = anchor - lr * v

    Args:
        lr: Outer learning rate.
        momentum: Decay of the velocity, in [0, 1).

    Example:
        >>> outer = Momentum(lr=1.0, momentum=0.5)
        >>> first = outer.step({"w": torch.tensor([1.0])}, {"w": torch.tensor([0.0])}, {"w": "mean"})
        >>> outer.step(first, first, {"w": "mean"})
        {'w': tensor([-0.5000])}

    Reference:
        Hsu et al. 2019, arXiv:1909.06335, section 4 (FedAvgM).
    """

    def __init__(self, lr: float = 1.0, momentum: float = 0.9) -> None:
        super().__init__(lr, momentum)

    def step_of(self, direction: Tensor, velocity: Tensor) -> Tensor:
        """Return the velocity."""
        return velocity
