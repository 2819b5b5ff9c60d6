"""Every type of tensor that torch knows, and small tensors of those that merge."""

from __future__ import annotations

import torch
from torch import Tensor

EVERY = sorted({kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}, key=str)

FLOATS = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
]
COMPLEX = [torch.complex32, torch.complex64, torch.complex128]
INTEGERS = [
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
]
MERGEABLE = [*FLOATS, *COMPLEX, *INTEGERS, torch.bool]
REFUSED = [kind for kind in EVERY if kind not in MERGEABLE]


def of_two(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """What two learners hold, and what one row of the first and three of the second merge to, worked out by hand."""
    if dtype is torch.bool:
        return torch.tensor([True, False, False]), torch.tensor([False, False, True]), torch.tensor([True, False, True])
    if dtype in INTEGERS:
        most, least = torch.iinfo(dtype).max, torch.iinfo(dtype).min
        rows = [3, most, least], [5, most - 1, least], [5, most, least]
        first, second, third = (torch.tensor(row, dtype=dtype) for row in rows)
        return first, second, third
    # Exact in 8 bits: 1 + 3/4 (5 - 1), what is equal, and one below zero.
    values = torch.tensor([[1.0, 7.0, -2.0], [5.0, 7.0, 2.0], [4.0, 7.0, 1.0]])
    if dtype in COMPLEX:
        values = torch.complex(values, -values)
    first, second, third = values.to(dtype)
    return first, second, third
