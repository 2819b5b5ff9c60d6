"""One step of many optimisers at once, for the same weights of different learners: SGD, Adam and AdamW."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW

from incr_core.learner._optimizer_step import Descent

__all__ = ["StackedOptimizer", "why_not_stacked"]

KINDS = (SGD, Adam, AdamW)

PLAIN = ("amsgrad", "maximize", "capturable", "differentiable")
"""Options under which an optimiser differs from the formulas here."""


def why_not_stacked(descent: Descent) -> str:
    """Return why an optimiser's steps cannot be stacked with those of others; empty if they can.

    Example:
        >>> from torch.nn.parameter import Parameter
        >>> weights = [Parameter(torch.zeros(1))]
        >>> why_not_stacked(Descent(SGD(weights, lr=0.1, momentum=0.9), weights))
        ''
        >>> why_not_stacked(Descent(torch.optim.Rprop(weights), weights))
        'learner.optimizer: Rprop; only sgd, adam and adamw are supported'
    """
    optimizer = descent.optimizer
    if type(optimizer) not in KINDS:
        return f"learner.optimizer: {type(optimizer).__name__}; only sgd, adam and adamw are supported"
    if descent.schedule is not None:
        return "learner.schedule: each client has its own progress in it"
    for group in optimizer.param_groups:
        for option in PLAIN:
            if group.get(option):
                return f"learner.optimizer: {option}"
        if isinstance(group["lr"], Tensor):
            return "learner.optimizer: a learning rate that is a tensor"
        if any(weight.is_complex() for weight in group["params"]):
            return "learner.optimizer: complex weights"
    return ""


class StackedOptimizer:
    """Steps the stacked weights (K, ...) of K learners, as each learner's optimiser would step its own.

        SGD    d = g + lambda w    b = mu b + (1 - tau) d  (d at first)    w -= lr (d + mu b, or b, or d)
        Adam   m = beta1 m + (1 - beta1) g    v = beta2 v + (1 - beta2) g^2
               w -= lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)        t counted for each learner

    descents: of the K learners, all with the same settings; their parameters in the same order. `close` gives each its
    state back. count: instead, K learners with the settings of one, whose optimisers begin without moments and are not
    gone on with.
    """

    def __init__(self, descents: Sequence[Descent], count: int = 0) -> None:
        self._descents, self._count = descents, count or len(descents)
        self._begins = bool(count)
        first = descents[0]
        self._sgd = type(first.optimizer) is SGD
        groups = {id(weight): group for group in first.optimizer.param_groups for weight in group["params"]}
        self._settings: list[Mapping[str, Any]] = [groups[id(weight)] for weight in first.parameters]
        self._lr = [float(group["lr"]) * first.factor for group in self._settings]
        self._state: list[dict[str, Tensor]] = [{} for _ in first.parameters]
        self._taken = torch.zeros(self._count, dtype=torch.int64)
        for place, weight in enumerate(first.parameters):
            self._gather(place, weight)

    def _gather(self, place: int, weight: Tensor) -> None:
        """Stack the optimisers' state of one weight."""
        names = ["momentum_buffer"] if self._sgd else ["exp_avg", "exp_avg_sq"]
        if self._sgd and not self._settings[place]["momentum"]:
            return
        state, nothing = self._state[place], torch.zeros_like(weight)
        if self._begins:
            state |= {name: torch.zeros(self._count, *weight.shape, device=weight.device) for name in names}
            if self._sgd:
                state["fresh"] = torch.ones(self._count, dtype=torch.bool, device=weight.device)
            else:
                state["step"] = torch.zeros(self._count, dtype=torch.float64, device=weight.device)
            return
        held = [descent.optimizer.state[descent.parameters[place]] for descent in self._descents]
        for name in names:
            found = [each.get(name) for each in held]
            state[name] = torch.stack([nothing if value is None else value for value in found])
        if self._sgd:
            state["fresh"] = torch.tensor([each.get("momentum_buffer") is None for each in held], device=weight.device)
        else:
            state["step"] = torch.stack(
                [each["step"].to(weight.device) if each else torch.zeros((), device=weight.device) for each in held]
            ).double()

    @torch.no_grad()
    def step(self, weights: Sequence[Tensor]) -> None:
        """Move the weights (A, ...) of the first A learners along their gradients, and release these."""
        active = len(weights[0])
        self._taken[:active] += 1
        for place, (weight, settings) in enumerate(zip(weights, self._settings, strict=True)):
            if weight.grad is not None:
                step = self._step_sgd if self._sgd else self._step_adam
                step(place, weight, weight.grad, settings, active)
                weight.grad = None

    def _step_sgd(self, place: int, weight: Tensor, slope: Tensor, settings: Mapping[str, Any], active: int) -> None:
        if settings["weight_decay"]:
            slope = slope.add(weight, alpha=settings["weight_decay"])
        if settings["momentum"]:
            state = self._state[place]
            buffer, fresh = state["momentum_buffer"][:active], state["fresh"][:active]
            buffer.mul_(settings["momentum"])
            if settings["dampening"]:
                damped = torch.where(fresh, 1.0, 1.0 - settings["dampening"])
                buffer.add_(slope * _wide(damped, slope))
                fresh.fill_(False)
            else:
                buffer.add_(slope)
            slope = slope.add(buffer, alpha=settings["momentum"]) if settings["nesterov"] else buffer
        weight.add_(slope, alpha=-self._lr[place])

    def _step_adam(self, place: int, weight: Tensor, slope: Tensor, settings: Mapping[str, Any], active: int) -> None:
        state, lr, decay = self._state[place], self._lr[place], settings["weight_decay"]
        (beta1, beta2), step = settings["betas"], state["step"][:active]
        if decay and settings.get("decoupled_weight_decay"):
            weight.mul_(1.0 - lr * decay)
        elif decay:
            slope = slope.add(weight, alpha=decay)
        step += 1
        mean, square = state["exp_avg"][:active], state["exp_avg_sq"][:active]
        mean.lerp_(slope, 1.0 - beta1)
        square.mul_(beta2).addcmul_(slope, slope, value=1.0 - beta2)
        size = (-lr / (1.0 - beta1**step)).to(weight.dtype)
        scale = (1.0 - beta2**step).sqrt().to(weight.dtype)
        weight.addcdiv_(mean * _wide(size, mean), (square.sqrt() / _wide(scale, square)).add_(settings["eps"]))

    def close(self) -> None:
        """Give each optimiser its state, as views of the stacked one."""
        assert not self._begins, "the optimisers are not gone on with"
        took = (self._taken > 0).tolist()
        for place, state in enumerate(self._state):
            parts = {name: value.unbind(0) for name, value in state.items() if name not in ("fresh", "step")}
            if "step" in state:
                parts["step"] = state["step"].float().unbind(0)
            for index, descent in enumerate(self._descents if parts else ()):
                if took[index]:
                    held = descent.optimizer.state[descent.parameters[place]]
                    held.update({name: values[index] for name, values in parts.items()})


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """Reshape one value (A,) per learner for multiplication with its weights (A, ...)."""
    return values.view(-1, *(1 for _ in like.shape[1:]))
