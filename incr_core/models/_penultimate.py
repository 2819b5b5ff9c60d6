"""Penultimate activations: the input of a model's last linear layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from incr_core.errors import ArgumentError, IncrError, StrategyError

__all__ = ["Activations", "head_of", "last_layer", "one_way"]


def head_of(model: nn.Module, place: str) -> nn.Linear:
    """Return the last linear layer of a model; `place` is used in the error if there is none.

    Example:
        >>> head_of(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), "icarl")
        Linear(in_features=3, out_features=2, bias=True)
    """
    last = last_layer(model, place, ArgumentError)
    if not isinstance(last, nn.Linear):
        raise ArgumentError(
            f"{place}: expected a model whose last layer is nn.Linear, got {type(last).__name__}; "
            "make heads for tasks last, of a model that is already adapted"
        )
    return last


def last_layer(model: nn.Module, place: str, error: type[IncrError] = StrategyError) -> nn.Module:
    """Return the last linear layer of a model, or the task heads in its place (modules with `per_task` weights).

    Example:
        >>> last_layer(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), "features")
        Linear(in_features=3, out_features=2, bias=True)
    """
    one_way(model, place, error)
    found = [part for part in model.modules() if isinstance(part, nn.Linear) or hasattr(part, "per_task")]
    if not found:
        raise error(f"{place}: expected a model whose last layer is nn.Linear, got {type(model).__name__}")
    return found[-1]


def one_way(model: nn.Module, place: str, error: type[IncrError] = StrategyError) -> None:
    """Raise `error` if rows take different paths through the model (class attribute `routes_rows` of a part).

    Example:
        >>> one_way(nn.Linear(1, 1), "ewc")
    """
    for part in model.modules():
        if getattr(part, "routes_rows", False):
            raise error(
                f"{place}: expected a model that all rows go through, got {type(part).__name__}, where rows take "
                f"different paths; leave {place} out, or apply it to the model before experts are created"
            )


class Activations:
    """Reads the activations of a model's last forward; gradients flow through them.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Identity(), nn.Linear(2, 1))
        >>> activations = Activations(model, "example")
        >>> with activations.read():
        ...     _ = model(torch.ones(3, 2))
        >>> activations.last.shape
        torch.Size([3, 2])
    """

    def __init__(self, model: nn.Module, place: str) -> None:
        self.head = last_layer(model, place)
        self._model = (model,)  # in a tuple, so that it is not a submodule of the owner
        self._place = place
        self._last: Tensor | None = None

    @property
    def last(self) -> Tensor:
        """Activations of the last forward, (B, d).

        Raises:
            StrategyError: The forward did not use the last layer.
        """
        if self._last is None:
            name = next(name for name, part in self._model[0].named_modules() if part is self.head)
            raise StrategyError(
                f"{self._place}: expected activations at {name or 'the model'}, the model's last linear layer, but its "
                "forward does not use it; remove that layer from the model, or define it before the output layer"
            )
        return self._last

    def keep(self) -> None:
        """Read every forward from now on."""
        self.head.register_forward_pre_hook(self._take)

    @contextmanager
    def read(self) -> Iterator[None]:
        """Read the forwards within the context."""
        handle = self.head.register_forward_pre_hook(self._take)
        try:
            yield
        finally:
            handle.remove()

    def _take(self, head: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._last = arguments[0]
