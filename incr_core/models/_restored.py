"""Restoring modules after a test run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Held", "restored", "same_bits"]


@contextmanager
def restored(*modules: nn.Module) -> Iterator[Held]:
    """Restore the contents of modules at exit, as if they had not been called.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with restored(norm):
        ...     _ = norm(torch.ones(3, 2))
        >>> norm.running_mean, norm.num_batches_tracked
        (tensor([0., 0.]), tensor(0))
    """
    held = Held(*modules)
    buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    try:
        yield held
    finally:
        held.restore()
        with torch.no_grad():
            for buffer, before in buffers:
                if not same_bits(buffer, before):
                    buffer.copy_(before)


class Held:
    """Contents of modules, including those of lists and the values of unregistered tensors.

    A module declares in a class attribute `transient` the attributes on which no later forward depends: those passed on
    within a forward, or caches.
    """

    def __init__(self, *roots: nn.Module) -> None:
        self._modules = {module: dict(vars(module)) for root in roots for module in root.modules()}
        values = [value for held in self._modules.values() for value in held.values()]
        self._contents: list[tuple[list[Any] | dict[Any, Any] | set[Any], Any]] = [
            (value, _contents(value)) for value in values if isinstance(value, list | dict | set)
        ]
        self._tensors = [(value, value.detach().clone()) for value in values if isinstance(value, Tensor)]

    def changed(self) -> bool:
        """Whether any content has changed."""
        return (
            any(
                not _same(_lasting(module, vars(module)), _lasting(module, held))
                for module, held in self._modules.items()
            )
            or any(not _same(_contents(value), held) for value, held in self._contents)
            or any(not same_bits(value, held) for value, held in self._tensors)
        )

    def restore(self) -> None:
        """Restore all contents."""
        for module, held in self._modules.items():
            _refill(vars(module), held)
        for value, contents in self._contents:
            _refill(value, contents)
        with torch.no_grad():
            for tensor, before in self._tensors:
                if not same_bits(tensor, before):
                    tensor.copy_(before)


def _lasting(module: nn.Module, held: dict[str, Any]) -> dict[str, Any]:
    transient = getattr(type(module), "transient", ())
    return {name: value for name, value in held.items() if name not in transient}


def _contents(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else list(value)


def _same(one: Any, other: Any) -> bool:
    """Whether two dicts or lists contain the same objects."""
    if len(one) != len(other):
        return False
    if isinstance(one, dict):
        return all(name in other and _alike(value, other[name]) for name, value in one.items())
    return all(map(_alike, one, other))


def _alike(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, int | float | str) and type(one) is type(other) and one == other)


def _refill(value: Any, contents: Any) -> None:
    if _same(_contents(value), contents):
        return
    value.clear()
    if isinstance(value, list):
        value.extend(contents)
    else:
        value.update(contents)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are bit-identical.

    Example:
        >>> same_bits(torch.tensor([0.0, torch.nan]), torch.tensor([0.0, torch.nan]))
        True
    """
    if one is other or one.shape != other.shape or one.dtype != other.dtype or one.layout != torch.strided:
        return one is other
    return torch.equal(*(value.detach().contiguous().reshape(-1).view(torch.uint8) for value in (one, other)))
