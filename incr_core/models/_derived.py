"""A value that is worked out of a tensor, and kept until the tensor changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from incr_core.numerics import is_stand_in, writes

__all__ = ["Derived"]

Values = TypeVar("Values", bound=tuple[Tensor, ...])


class Derived(Generic[Values]):
    """Tensors worked out of a `source`; they are kept until it is written to, which may happen anywhere.

    A tensor counts the writes to itself. Nothing is kept of tensors that stand in for others, as inside of torch.func
    or torch.export, nor while a CUDA graph is captured: the graph works the values out at each replay. A copy keeps
    nothing, since a copy of the source counts its writes from 0.

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
        """The values of `source` as it is now. work_out: works them out of `source`, and of what changes before it."""
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
