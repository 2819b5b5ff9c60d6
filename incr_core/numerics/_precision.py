"""Precision of forwards, single or half under autocast, and the loss scale that float16 needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from incr_core.errors import ArgumentError

__all__ = ["LossScale", "Precision"]

TYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Precision:
    """The precision in which a model runs forward on a device.

    Args:
        name: "float32", or "bfloat16" and "float16" for autocast.
        device: Device of the model.
        sharded: Whether the model is sharded.

    Attributes:
        scale: The loss scale for float16, otherwise None.

    Example:
        >>> with Precision("bfloat16", torch.device("cpu")).autocast():
        ...     torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype
        torch.bfloat16
    """

    def __init__(self, name: str, device: torch.device, sharded: bool = False) -> None:
        if name not in TYPES:
            raise ArgumentError(f"learner.precision: expected one of {', '.join(TYPES)}, got {name!r}")
        if name == "float16" and sharded:
            raise ArgumentError('learner.precision: "float16" cannot be sharded, its scale is one; use "bfloat16"')
        self.name = name
        self.device = device
        self.scale = LossScale() if name == "float16" else None

    def check(self, weights: Mapping[str, Tensor]) -> None:
        """Raise an ArgumentError if trainable weights are float16 too, which cannot represent small steps."""
        if self.scale is not None:
            for name, weight in weights.items():
                if weight.dtype is torch.float16:
                    raise ArgumentError(
                        f"learner.precision: expected weights in float32 beside precision float16, got {name} in "
                        "float16; make the model with .float(), its forwards run in float16 all the same"
                    )

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a context in which forwards run in this precision."""
        kind = TYPES[self.name]
        return nullcontext() if kind is None else torch.autocast(self.device.type, kind)


class LossScale:
    """Factor on a loss before its backward, so that half-precision gradients do not underflow.

        g = (1 / s) d(s l)/dw        s halves while g overflows, and doubles after `interval` steps without overflow

    A backward that overflows runs again with the smaller scale on the same graph. No step is skipped, every row is
    learned, and layers with statistics process each row once. The paper skips such steps.

    Args:
        factor: Initial scale.
        least: Smallest scale.
        interval: Steps without overflow before the scale doubles.

    Attributes:
        factor: The current scale s, a power of two, so that scaling does not round.

    Example:
        >>> weight, scale = Parameter(torch.tensor([3.0])), LossScale()
        >>> scale.backward((weight**2).sum(), [weight]), weight.grad
        (True, tensor([6.]))

    Reference:
        Micikevicius et al. 2018, "Mixed precision training", section 3.2.
    """

    def __init__(self, factor: float = 2.0**16, least: float = 2.0**-16, interval: int = 2000) -> None:
        self.factor = factor
        self.least = least
        self.interval = interval
        self._since = 0

    def backward(self, loss: Tensor, parameters: Iterable[Parameter]) -> bool:
        """Add the gradients of a loss to those present; return False, adding none, if they overflow at any scale."""
        weights = list(parameters)
        before = [weight.grad for weight in weights]
        factor = self.factor
        while factor >= self.least:
            for weight in weights:
                weight.grad = None
            (loss * factor).backward(retain_graph=True)  # type: ignore[no-untyped-call]
            if _finite([weight.grad for weight in weights]):
                self._found(factor)
                for weight, earlier in zip(weights, before, strict=True):
                    if weight.grad is None:
                        weight.grad = earlier
                    else:
                        weight.grad /= factor
                        if earlier is not None:
                            weight.grad += earlier
                return True
            if not bool(loss.isfinite()):
                break
            factor /= 2
        for weight, earlier in zip(weights, before, strict=True):
            weight.grad = earlier
        return False

    def _found(self, factor: float) -> None:
        if factor < self.factor:
            self.factor, self._since = factor, 0

    def stepped(self) -> None:
        """Count a step; after `interval` steps, double the scale."""
        self._since += 1
        if self._since == self.interval:
            self.factor, self._since = 2 * self.factor, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the scale, and the steps since it changed."""
        return {"scale": self.factor, "since": self._since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the scale, also from the state of torch's GradScaler, which earlier versions saved."""
        self.factor, self._since = state["scale"], state.get("since", state.get("_growth_tracker", 0))


def _finite(gradients: Iterable[Tensor | None]) -> bool:
    """Whether all gradients are finite, with a single synchronisation with the GPU."""
    values = [g.coalesce().values() if g.is_sparse else g for g in gradients if g is not None]
    return not values or bool(torch.stack([value.isfinite().all() for value in values]).all())
