"""Dtypes: the merge rules that each supports, and the dtype in which the arithmetic is done."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["all_finite", "narrowed", "refusal_of", "stored", "unstored", "widened"]

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
_FLOATS = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16, *_FLOAT8))
_COMPLEX = frozenset((torch.complex32, torch.complex64, torch.complex128))
_UNSIGNED = frozenset((torch.uint8, torch.uint16, torch.uint32, torch.uint64))
_INTEGERS = frozenset((torch.int8, torch.int16, torch.int32, torch.int64)) | _UNSIGNED

# Dtypes that torch can store and copy, but not subtract or compare, are merged in a wider dtype that represents all
# their values.
_WIDER = {
    **dict.fromkeys(_FLOAT8, torch.float32),
    torch.complex32: torch.complex64,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
}
_PAIRS = {torch.complex32: torch.float16, torch.complex128: torch.float64}
_SIGN = torch.iinfo(torch.int64).min


def refusal_of(dtype: torch.dtype, rule: str) -> str | None:
    """Return why tensors of a dtype cannot be merged by a rule, as `expected ..., got ...; remedy`, or None if they
    can.

    Means need floating or complex numbers, "max" needs an order, and "sum" needs addition.

    Example:
        >>> refusal_of(torch.float32, "mean"), refusal_of(torch.uint64, "max")
        (None, None)
        >>> refusal_of(torch.complex64, "max")
        "expected a type that merges by 'max', got complex64; declare another rule in its module's `merge`"
        >>> refusal_of(torch.int4, "max")
        'expected a type that can be added or compared, got int4; keep it as int8, say, and convert it in the forward'
    """
    name = str(dtype).removeprefix("torch.")
    possible: tuple[str, ...]
    if dtype in _FLOATS:
        possible = ("mean", "average", "sum", "max")
    elif dtype in _COMPLEX:
        possible = ("mean", "average", "sum")
    elif dtype in _INTEGERS:
        possible = ("max", "sum")
    elif dtype is torch.bool:
        possible = ("max",)
    else:
        remedy = "keep it as int8, say, and convert it in the forward"
        return f"expected a type that can be added or compared, got {name}; {remedy}"
    if rule in possible:
        return None
    if rule not in ("mean", "average", "sum", "max"):
        return f"expected the rule mean, average, sum or max, got {rule!r}; declare one of these"
    return f"expected a type that merges by {rule!r}, got {name}; declare another rule in its module's `merge`"


def widened(value: Tensor) -> Tensor:
    """Return the values in a dtype with subtraction and comparison; the tensor itself if its dtype has both.

    An unsigned 64-bit integer x becomes x - 2^63, which preserves the order, and differences modulo 2^64.

    Example:
        >>> widened(torch.tensor([1, 2], dtype=torch.uint16)).dtype
        torch.int32
    """
    if value.dtype is torch.uint64:
        return value.view(torch.int64) ^ _SIGN
    wider = _WIDER.get(value.dtype)
    return value if wider is None else value.to(wider)


def narrowed(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert from `widened` back to `dtype`, rounding to nearest.

    Example:
        >>> most = torch.tensor([2**64 - 1], dtype=torch.uint64)
        >>> narrowed(widened(most), torch.uint64).tolist() == [2**64 - 1]
        True
    """
    if dtype is torch.uint64:
        return (value ^ _SIGN).view(torch.uint64)
    return value.to(dtype)


def all_finite(value: Tensor) -> bool:
    """Whether all elements are finite.

    Example:
        >>> all_finite(torch.tensor([1.0])), all_finite(torch.tensor([float("nan")]).to(torch.float8_e4m3fn))
        (True, False)
    """
    wide = widened(value)
    # A non-finite element makes the sum non-finite, which is faster to check; but finite elements may overflow the sum.
    return bool(wide.sum().isfinite()) or bool(wide.isfinite().all())


def stored(value: Tensor) -> Tensor:
    """Return a tensor that safetensors can store: complex dtypes other than complex64 become pairs of real numbers.

    Example:
        >>> stored(torch.tensor([1 + 2j], dtype=torch.complex128))
        tensor([[1., 2.]], dtype=torch.float64)
    """
    return torch.view_as_real(value.resolve_conj()) if value.dtype in _PAIRS else value


def unstored(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert back from `stored`.

    Example:
        >>> unstored(torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.complex128)
        tensor([1.+2.j], dtype=torch.complex128)
    """
    return torch.view_as_complex(value) if dtype in _PAIRS else value
