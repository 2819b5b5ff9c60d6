"""The optimiser's step, with clipping, a rate factor, a schedule and loss scaling."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import Parameter
from torch.optim import Optimizer

from incr_core.learner._schedule import Schedule
from incr_core.numerics import LossScale, load_optimizer, optimizer_state, step_is_watched

__all__ = ["Descent", "unobserved_step"]


class Descent:
    """Moves parameters along the gradients that backward passes have left on them.

    Args:
        optimizer: The optimiser of the parameters.
        parameters: The parameters.
        clip: Maximum norm of a step's gradient, or None.
        schedule: Learning-rate schedule; None keeps the rate constant.
        scale: Loss scale for float16.
        sparse: Whether some gradients are sparse.

    Attributes:
        rate: Factor on the optimiser's learning rate, changed by a drift action; part of the state.
        scaled: Further factor, set by the number of learners; not part of the state, because a resumed run may have
            another number.

    Example:
        >>> import torch
        >>> weight = Parameter(torch.tensor([3.0, 4.0]))
        >>> descent = Descent(torch.optim.SGD([weight], lr=1.0), [weight], clip=1.0)
        >>> descent.backward((weight**2).sum() / 2)  # the gradient (3, 4) is of norm 5
        True
        >>> descent.step()
        >>> weight.data, weight.grad
        (tensor([2.4000, 3.2000]), None)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        parameters: Sequence[Parameter],
        *,
        clip: float | None = None,
        schedule: Schedule | None = None,
        scale: LossScale | None = None,
        sparse: bool = False,
    ) -> None:
        self.optimizer = optimizer
        self.parameters = parameters
        self.clip = clip
        self.schedule = schedule
        self.scale = scale
        self.rate = 1.0
        self.scaled = 1.0
        self._clip = _clip_sparse if sparse else nn.utils.clip_grad_norm_
        if schedule is not None:
            schedule.start(optimizer)

    def backward(self, loss: Tensor) -> bool:
        """Add a loss's gradients to those present; return False if half precision cannot represent them."""
        if self.scale is not None:
            return self.scale.backward(loss, self.parameters)
        loss.backward()  # type: ignore[no-untyped-call]
        return True

    @property
    def factor(self) -> float:
        """The total factor on the optimiser's learning rate."""
        return self.rate * self.scaled

    def step(self) -> None:
        """Take a step, and release the gradients."""
        if self.clip is not None:
            self._clip(self.parameters, self.clip)
        if self.factor == 1.0:
            unobserved_step(self.optimizer)()
        else:
            with self._at_rate():
                unobserved_step(self.optimizer)()
        if self.schedule is not None:
            self.schedule.after("step")
        if self.scale is not None:
            self.scale.stepped()
        self.let_go()

    def let_go(self) -> None:
        """Release the gradients: `optimizer.zero_grad()` without its profiler mark."""
        for weight in self.parameters:
            weight.grad = None

    @contextmanager
    def _at_rate(self) -> Iterator[None]:
        groups = self.optimizer.param_groups
        before = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = group["lr"] * self.factor
        try:
            yield
        finally:
            for group, lr in zip(groups, before, strict=True):
                group["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        """Return moments, rates, the schedule's progress and the loss scale; tensors are the live ones."""
        return {
            "optimizer": optimizer_state(self.optimizer),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "scaler": None if self.scale is None else self.scale.state_dict(),
            "rate": self.rate,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state.

        Raises:
            RuntimeError: The state does not fit, as torch reports it.
            ValueError: Likewise.
        """
        # The optimiser would keep the given tensors, and its next step would write to them.
        load_optimizer(self.optimizer, copy.deepcopy(state["optimizer"]))
        if self.schedule is not None:
            self.schedule.load_state_dict(copy.deepcopy(state["schedule"]))
        if self.scale is not None:
            self.scale.load_state_dict(state["scaler"])
        self.rate = state["rate"]


def _clip_sparse(parameters: Sequence[Parameter], largest: float) -> None:
    """Clip gradients as torch's `clip_grad_norm_` does, but with sparse gradients too."""
    gradients = []
    for weight in parameters:
        if weight.grad is not None and weight.grad.is_sparse:
            weight.grad = weight.grad.coalesce()  # sums the gradients of rows that were looked up twice
            gradients.append(weight.grad.values())
        elif weight.grad is not None:
            gradients.append(weight.grad)
    factor = (largest / (nn.utils.get_total_norm(gradients) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)


def unobserved_step(optimizer: Optimizer) -> Callable[[], object]:
    """Return `optimizer.step` without torch's wrapper, if nothing observes it.

    Torch wraps every optimiser's `step` to mark it for a profiler and to call hooks. The mark alone takes as long as
    the whole step of a small model: 60 us compared with 50 to 300 us. While a profiler runs, a hook is registered, or a
    scheduler has replaced `step`, the wrapped `optimizer.step` is returned.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([Parameter(torch.zeros(1))], lr=1.0)
        >>> unobserved_step(optimizer) == optimizer.step
        False
        >>> handle = optimizer.register_step_post_hook(lambda *_: None)
        >>> unobserved_step(optimizer) == optimizer.step
        True
    """
    wrapped = type(optimizer).step
    if step_is_watched(optimizer) or "step" in vars(optimizer) or not getattr(wrapped, "hooked", False):
        return optimizer.step
    inner: Callable[..., object] = wrapped.__wrapped__  # type: ignore[attr-defined]
    return inner.__get__(optimizer)  # type: ignore[no-any-return]
