"""Forwards without side effects: their writes to a model are undone, so that predicting does not change predictions."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from incr_core.errors import ArgumentError
from incr_core.models._extra_state import ExtraState
from incr_core.models._restored import same_bits
from incr_core.numerics import RunningNorm, draws_nothing, writes

__all__ = ["Asking", "keeps_nothing"]


def keeps_nothing(*modules: nn.Module) -> bool:
    """Whether a forward in eval mode certainly changes nothing: only torch's own layers, or layers that declare it.

    Example:
        >>> keeps_nothing(nn.Sequential(nn.Embedding(3, 2), nn.BatchNorm1d(2)))
        True
        >>> keeps_nothing(nn.Embedding(3, 2, max_norm=1.0))  # it shortens the rows that it looks up
        False
    """
    shortens = any(getattr(part, "max_norm", None) is not None for one in modules for part in one.modules())
    return not shortens and draws_nothing(*modules, training=False)


class Asking:
    """Context in which a model predicts; at exit its tensors, and the extra state of its modules, are restored.

    A model may write in every forward: a moving average, a counter, embeddings with `max_norm`, the statistics of a
    norm that it puts in training mode itself. With this context only forwards that learn have such effects.

    All tensors are copied before the first forward. Later only those that a forward has written to are copied, and
    statistics of norms, whose writes torch does not count. Plain attributes are not restored. The context must not be
    used by two threads at once.

    Args:
        model: The model.
        extra: Extra state of its modules.
        parameters: Whether to include parameters. False for shards, whose forwards write to copies.

    Raises:
        ArgumentError: A later forward writes to a tensor that the first did not write to.

    Example:
        >>> class Counting(nn.Linear):
        ...     def __init__(self):
        ...         super().__init__(1, 1); self.register_buffer("calls", torch.zeros(()))
        ...     def forward(self, x):
        ...         self.calls += 1
        ...         return super().forward(x)
        >>> model = Counting(); asking = Asking(model, ExtraState(model=model))
        >>> with asking:
        ...     _ = model(torch.ones(1, 1))
        >>> model.calls
        tensor(0.)
    """

    def __init__(self, model: nn.Module, extra: ExtraState, *, parameters: bool = True) -> None:
        self._model = model
        self._extra = extra
        self._parameters = parameters
        self._written: set[str] | None = None  # unknown before the first forward
        self._statistics = {
            f"{name}.{buffer}" if name else buffer
            for name, part in model.named_modules()
            if isinstance(part, RunningNorm)
            for buffer in _buffer_names(part)
        }
        self._buffers: list[tuple[nn.Module, str, Tensor | None]] = []
        self._before: dict[str, tuple[Tensor, int, Tensor | None]] = {}
        self._state: dict[str, Any] = {}

    def __enter__(self) -> None:
        self._buffers = [
            (part, name, getattr(part, name)) for part in self._model.modules() for name in _buffer_names(part)
        ]
        named = dict(self._model.named_buffers())
        if self._parameters:
            named |= self._model.named_parameters()
        self._before = {
            name: (tensor, writes(tensor), tensor.detach().clone() if self._copies(name) else None)
            for name, tensor in named.items()
        }
        self._state = copy.deepcopy(self._extra.state_dict()) if self._extra else {}

    def __exit__(self, *_: object) -> None:
        for part, name, buffer in self._buffers:
            if getattr(part, name) is not buffer:  # a forward has replaced the buffer, whose value is unchanged
                setattr(part, name, buffer)
        written = {
            name
            for name, (tensor, count, value) in self._before.items()
            if writes(tensor) != count
            or (name in self._statistics and value is not None and not same_bits(tensor, value))
        }
        late = [name for name in written if self._before[name][2] is None]
        with torch.no_grad():
            for name in written:
                changed, before = self._before[name][0], self._before[name][2]
                if before is not None:
                    changed.copy_(before)
        if self._state:
            self._extra.load_state_dict(self._state)
        self._written = (self._written or set()) | written
        self._buffers, self._before, self._state = [], {}, {}
        if late:
            raise ArgumentError(
                f"model.{late[0]}: expected a tensor that the model's forward does not write to in eval mode, as in "
                "its first one, but a later one did: predicting would change later predictions; write to it only if "
                "self.training holds"
            )

    def _copies(self, name: str) -> bool:
        return self._written is None or name in self._written or name in self._statistics


def _buffer_names(part: nn.Module) -> list[str]:
    return [name for name, _ in part.named_buffers(recurse=False, remove_duplicate=False)]
