"""Named tensors in one contiguous byte buffer, for transfer between processes.

tensors --FlatTensors.of--> layout and buffer --FlatTensors.tensors--> tensors
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from incr_core.errors import ArgumentError

__all__ = ["FlatLayout", "FlatTensors", "Piece"]

ALIGNED = 16
"""Alignment of tensors in bytes: the size of complex128, a multiple of all other element sizes. A tensor can therefore
be viewed as another dtype, and a cut at a multiple divides no element.
"""


class Place(NamedTuple):
    """Byte range of a tensor, from `start` up to `stop`."""

    dtype: torch.dtype
    shape: torch.Size
    start: int
    stop: int


class Piece(NamedTuple):
    """Elements of a tensor, from `first` up to `last`; `whole` if these are all."""

    name: str
    first: int
    last: int
    whole: bool


class FlatLayout:
    """Places of tensors in a byte buffer, in the given order.

    Args:
        contents: Name, dtype and shape of each tensor.

    Attributes:
        nbytes: Size of the buffer, independent of the order.

    Example:
        >>> layout = FlatLayout.of({"seen": torch.tensor(True), "w": torch.ones(2)})
        >>> layout.document(), layout.nbytes
        ([['seen', 'bool', []], ['w', 'float32', [2]]], 32)
        >>> layout.views(torch.zeros(32, dtype=torch.uint8))["w"]
        tensor([0., 0.])
    """

    def __init__(self, contents: Iterable[tuple[str, torch.dtype, Sequence[int]]]) -> None:
        self.places: dict[str, Place] = {}
        self.nbytes = 0
        for name, dtype, shape in contents:
            shape = torch.Size(shape)
            stop = self.nbytes + shape.numel() * dtype.itemsize
            self.places[name] = Place(dtype, shape, self.nbytes, stop)
            self.nbytes = -(-stop // ALIGNED) * ALIGNED

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> FlatLayout:
        """Return the layout of these tensors."""
        return cls((name, value.dtype, value.shape) for name, value in tensors.items())

    @classmethod
    def from_document(cls, document: Sequence[Sequence[Any]]) -> FlatLayout:
        """Restore a layout from `document`, which may come from an untrusted sender.

        Raises:
            ArgumentError: The document does not describe tensors.
        """
        contents = []
        for name, told, shape in document:
            dtype = getattr(torch, str(told), None)
            if not isinstance(dtype, torch.dtype) or any(type(length) is not int or length < 0 for length in shape):
                raise ArgumentError(f"{name}: expected a tensor's type and shape, got {told!r} and {shape!r}")
            contents.append((str(name), dtype, shape))
        return cls(contents)

    def document(self) -> list[list[Any]]:
        """Return the layout as JSON-compatible values: name, dtype and shape of each tensor."""
        return [
            [name, str(place.dtype).removeprefix("torch."), list(place.shape)] for name, place in self.places.items()
        ]

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """Return the tensors within a buffer (nbytes,), as views of it."""
        sizes = [size for place in self.places.values() for size in (place.stop - place.start, -place.stop % ALIGNED)]
        # Each call matters for small tensors: one split for all, and no reshape of one-dimensional tensors.
        pieces = buffer.split_with_sizes(sizes)[::2]
        return {
            name: piece.view(place.dtype) if len(place.shape) == 1 else piece.view(place.dtype).view(place.shape)
            for (name, place), piece in zip(self.places.items(), pieces, strict=True)
        }

    @torch.no_grad()
    def write(self, tensors: Mapping[str, Tensor], buffer: Tensor) -> None:
        """Copy tensors, of any strides and device, to their places in a buffer (nbytes,)."""
        for name, view in self.views(buffer).items():
            view.copy_(tensors[name].detach().resolve_conj().resolve_neg())
        for place in self.places.values():  # the padding must not leak previous contents of memory
            buffer[place.stop : -(-place.stop // ALIGNED) * ALIGNED] = 0

    def content(self, tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
        """Yield the bytes of the buffer in order without building it: the memory of each tensor, and zero padding.

        Only tensors that are not contiguous, or on a device, are copied.

        Example:
            >>> tensors = {"seen": torch.tensor(True), "w": torch.ones(2)}
            >>> b"".join(FlatLayout.of(tensors).content(tensors)) == bytes(FlatTensors.of(tensors).buffer)
            True
        """
        for name, place in self.places.items():
            if place.stop > place.start:
                plain = tensors[name].detach().resolve_conj().resolve_neg().contiguous()
                # As one row: a contiguous tensor may have any stride in a dimension of length 1.
                row = plain.as_strided((plain.numel(),), (1,))
                yield row.view(torch.uint8).numpy(force=True).data
            if padding := -place.stop % ALIGNED:
                yield memoryview(bytes(padding))

    def cut(self, length: int) -> list[list[Piece]]:
        """Return the pieces of tensors in each `length` bytes of the buffer, a multiple of `ALIGNED`; empty tensors
        have none.
        """
        found: list[list[Piece]] = [[] for _ in range(-(-self.nbytes // length))]
        for name, (dtype, shape, start, stop) in self.places.items():
            count, size = shape.numel(), dtype.itemsize
            for number in range(start // length, -(-stop // length)):
                first = max(0, (number * length - start) // size)
                last = min(count, ((number + 1) * length - start) // size)
                if first < last:
                    found[number].append(Piece(name, first, last, last - first == count))
        return found


@dataclass(frozen=True, eq=False, slots=True)
class FlatTensors:
    """Tensors as one numpy buffer, which Ray's object store and pickle protocol 5 transfer without copying.

    Example:
        >>> FlatTensors.of({"w": torch.ones(2), "n": torch.tensor(3)}).tensors()
        {'w': tensor([1., 1.]), 'n': tensor(3)}
    """

    layout: FlatLayout
    buffer: np.ndarray[Any, np.dtype[np.uint8]]

    def __reduce__(self) -> tuple[Any, ...]:
        # The layout travels as its document: pickling torch dtypes and shapes takes several times as long.
        return _unpickled, (self.layout.document(), self.buffer)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> FlatTensors:
        """Copy tensors to the CPU."""
        layout = FlatLayout.of(tensors)
        buffer = torch.empty(layout.nbytes, dtype=torch.uint8)
        layout.write(tensors, buffer)
        return cls(layout, buffer.numpy())

    def tensors(self, *, copy: bool = True) -> dict[str, Tensor]:
        """Return the tensors.

        Args:
            copy: Whether to copy them. False returns views of the buffer if its address is aligned; the buffer may be
                read-only and shared with other processes, so the caller must only read the views, and briefly.
        """
        if self.buffer.nbytes != self.layout.nbytes:
            raise ArgumentError(f"expected {self.layout.nbytes} bytes of tensors, got {self.buffer.nbytes}")
        if not self.buffer.nbytes:  # torch cannot view the strides of an empty numpy array
            return self.layout.views(torch.empty(0, dtype=torch.uint8))
        if copy or self.buffer.ctypes.data % ALIGNED:
            return self.layout.views(torch.from_numpy(self.buffer.copy()))
        if self.buffer.flags.writeable:
            return self.layout.views(torch.from_numpy(self.buffer))
        with warnings.catch_warnings():
            # Torch has no read-only tensors and warns; callers with copy=False only read.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            return self.layout.views(torch.from_numpy(self.buffer))


def _unpickled(document: Sequence[Sequence[Any]], buffer: np.ndarray[Any, np.dtype[np.uint8]]) -> FlatTensors:
    return FlatTensors(FlatLayout.from_document(document), buffer)
