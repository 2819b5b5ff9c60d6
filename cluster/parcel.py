"""Tensors on their way between processes: one flat buffer, which Ray moves without pickling tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Parcel", "open_parcel", "parcel"]


@dataclass(frozen=True, slots=True)
class Parcel:
    """The bytes of tensors laid end to end, and what they were: name, type and shape of each."""

    contents: list[tuple[str, torch.dtype, torch.Size]]
    buffer: np.ndarray[Any, np.dtype[np.uint8]]


def parcel(tensors: Mapping[str, Tensor]) -> Parcel:
    """Lay tensors, on whatever device, end to end.

    >>> open_parcel(parcel({"w": torch.ones(2), "n": torch.tensor(3)}))
    {'w': tensor([1., 1.]), 'n': tensor(3)}
    """
    plain = [value.detach().resolve_conj().resolve_neg() for value in tensors.values()]
    parts = [value.reshape(-1).contiguous().view(torch.uint8).cpu() for value in plain]
    contents = [(name, value.dtype, value.shape) for name, value in tensors.items()]
    return Parcel(contents, (torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)).numpy())


def open_parcel(parcel: Parcel) -> dict[str, Tensor]:
    """The tensors, on the CPU, in memory of their own."""
    # What Ray hands out is read-only and may lie at any address: tensors need neither.
    whole, tensors, start = torch.from_numpy(parcel.buffer.copy()), {}, 0
    for name, dtype, shape in parcel.contents:
        stop = start + shape.numel() * dtype.itemsize
        part = whole[start:stop]
        aligned = part if start % dtype.itemsize == 0 else part.clone()
        tensors[name] = aligned.view(dtype).view(shape)
        start = stop
    return tensors
