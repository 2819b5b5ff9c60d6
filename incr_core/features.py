"""What a model thinks of a row before it answers: the input of its last linear layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from incr_core.errors import StrategyError

__all__ = ["Features", "head_of"]


def head_of(model: nn.Module, place: str) -> nn.Linear:
    """The last linear layer of a model; `place` is what to name in the error where there is none.

    >>> head_of(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), "icarl")
    Linear(in_features=3, out_features=2, bias=True)
    """
    found = [part for part in model.modules() if isinstance(part, nn.Linear)]
    if not found:
        raise StrategyError(f"{place}: expected a model whose last layer is nn.Linear, got {type(model).__name__}")
    return found[-1]


class Features:
    """Reads the features of a model's last forward; a gradient flows through them.

    >>> import torch
    >>> model = nn.Sequential(nn.Identity(), nn.Linear(2, 1))
    >>> features = Features(model, "example")
    >>> with features.read():
    ...     _ = model(torch.ones(3, 2))
    >>> features.last.shape
    torch.Size([3, 2])
    """

    def __init__(self, model: nn.Module, place: str) -> None:
        self.head = head_of(model, place)
        self.last: Tensor

    def keep(self) -> None:
        """Read every forward from now on."""
        self.head.register_forward_pre_hook(self._take)

    @contextmanager
    def read(self) -> Iterator[None]:
        """Read the forwards inside."""
        handle = self.head.register_forward_pre_hook(self._take)
        try:
            yield
        finally:
            handle.remove()

    def _take(self, head: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.last = arguments[0]
