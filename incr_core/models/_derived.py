"""Cache of values that are computed from a tensor, valid until the tensor changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from incr_core.numerics import is_stand_in, writes

__all__ = ["Derived"]

Values = TypeVar("Values", bound=tuple[Tensor, ...])


class Derived(Generic[Values]):
    """Cached tensors that are computed from a `source`. They are computed again after any write to the source.

    A tensor counts the writes to itself. Stand-in tensors, as inside torch.func or torch.export, are not cached.
    Nothing is cached while a CUDA graph is captured either, because the graph computes the values at each replay. A
    copy of the cache is empty, since a copy of the source counts its writes from 0.

    >>> derived, source = Derived(), torch.ones(2)
    >>> first = derived.of(source, lambda: (source.sum(),))
    >>> derived.of(source, lambda: (source.sum(),)) is first
    True
    >>> _ = source.add_(1.0)
    >>> derived.of(source, lambda: (source.sum(),))
    (tensor(4.),)
    """

    __slots__ = ("_source", "_values", "_writes")

    def __init__(self) -> None:
        self._source: Tensor | None = None
        self._writes = 0
        self._values: Values | None = None

    def of(self, source: Tensor, work_out: Callable[[], Values]) -> Values:
        """Return the values for the current `source`. work_out: computes them from the source."""
        if source.is_cuda and torch.cuda.is_current_stream_capturing():
            return work_out()
        if self._values is not None and self._source is source and self._writes == writes(source):
            return self._values
        values = work_out()
        if not any(map(is_stand_in, (source, *values))):
            self._source, self._writes, self._values = source, writes(source), values
        return values

    def __reduce__(self) -> tuple[type[Derived[Values]], tuple[()]]:
        return type(self), ()
