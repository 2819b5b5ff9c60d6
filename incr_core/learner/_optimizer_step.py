"""An optimiser's step: clipped, at some rate, by a schedule, and in half precision without vanishing gradients."""

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
    """Move parameters along the gradients that backward passes left on them.

    optimizer: of these parameters. clip: the largest norm of a step's gradient, or None.
    schedule: changes the learning rate; None: it stays.
    scale: for float16. It scales a loss up before the backward and the gradients down after it.
    sparse: whether some gradients are.
    rate, scaled: attributes, by both of which the optimiser's own learning rate is multiplied; `factor` is their
    product. A drift's action changes `rate`, which is part of the state; `scaled` says how many learn together, and is
    not: who goes on from the state may be one of more or fewer.

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
        """Add a loss's gradients to those there are; False where half precision cannot hold them."""
        if self.scale is not None:
            return self.scale.backward(loss, self.parameters)
        loss.backward()  # type: ignore[no-untyped-call]
        return True

    @property
    def factor(self) -> float:
        """By how much the optimiser's own learning rate is multiplied."""
        return self.rate * self.scaled

    def step(self) -> None:
        """Move, and let go of the gradients."""
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
        """Let go of the gradients: what `optimizer.zero_grad()` does, without its mark for the profiler."""
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
        """Moments, rates, where the schedule stands and the loss's scale; tensors are the live ones."""
        return {
            "optimizer": optimizer_state(self.optimizer),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "scaler": None if self.scale is None else self.scale.state_dict(),
            "rate": self.rate,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave. RuntimeError or ValueError, as torch raises it, where it does not fit."""
        # The optimiser would keep the tensors it is given, and its next step would write into them.
        load_optimizer(self.optimizer, copy.deepcopy(state["optimizer"]))
        if self.schedule is not None:
            self.schedule.load_state_dict(copy.deepcopy(state["schedule"]))
        if self.scale is not None:
            self.scale.load_state_dict(state["scaler"])
        self.rate = state["rate"]


def _clip_sparse(parameters: Sequence[Parameter], largest: float) -> None:
    """What torch's `clip_grad_norm_` does, which takes no sparse gradients."""
    gradients = []
    for weight in parameters:
        if weight.grad is not None and weight.grad.is_sparse:
            weight.grad = weight.grad.coalesce()  # a row that was looked up twice has one gradient
            gradients.append(weight.grad.values())
        elif weight.grad is not None:
            gradients.append(weight.grad)
    factor = (largest / (nn.utils.get_total_norm(gradients) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)


def unobserved_step(optimizer: Optimizer) -> Callable[[], object]:
    """`optimizer.step` as its author wrote it, where nothing observes it.

    torch wraps every optimiser's `step` to mark it for a profiler and to call hooks. The mark alone takes as long as
    the whole step of a small model: 60 us beside 50 to 300 us. While a profiler runs, a hook is registered, or a
    scheduler has put a `step` of its own in place, it is `optimizer.step` as it stands.

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
