"""Running mean and variance that merge exactly between participants."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from incr_core.numerics import is_stand_in, writes

__all__ = ["Moments"]


class Scale(NamedTuple):
    """Cache of `Moments.scale`: computed from `sums` after `writes` writes to it."""

    sums: Tensor
    writes: int
    mean: Tensor
    std: Tensor


class Moments(nn.Module):
    """Count, sum and sum of squares of F features, in float64.

    The three are additive, so the statistics of all participants are the sum of theirs, for any division of rows:

        count += n        total += sum_i x_i        square += sum_i x_i^2
        mean = total / count        var = square / count - mean^2

    Missing values (NaN) are excluded from the feature in which they are missing. With fewer than two values, or only
    equal ones, the mean is subtracted without division.

    Args:
        features: F.
        dtype: Dtype of mean and standard deviation; float64 for values with a large offset relative to their deviation.

    Example:
        >>> moments = Moments(1)
        >>> moments.add(moments.measure(torch.tensor([[1.0], [3.0], [float("nan")]])))
        >>> moments.standardise(torch.tensor([[2.0], [3.0]])).flatten().tolist()
        [0.0, 1.0]
    """

    draws_nothing: ClassVar[bool] = True

    merge: ClassVar[dict[str, str]] = {"sums": "sum"}
    transient: ClassVar[tuple[str, ...]] = ("_scale",)
    sums: Tensor

    def __init__(self, features: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.register_buffer("sums", torch.zeros(3, features, dtype=torch.float64))
        self._scale: Scale | None = None

    def measure(self, values: Tensor) -> Tensor:
        """Return the additions of the rows `values` (B, F): (3, F) of count, sum and sum of squares."""
        values = values.double()
        known = ~values.isnan()
        values = torch.where(known, values, 0.0)
        return torch.stack([known.sum(0, dtype=torch.float64), values.sum(0), (values * values).sum(0)])

    @torch.no_grad()
    def add(self, measured: Tensor) -> None:
        """Add the result of `measure`, from here or from another participant."""
        self.sums += measured.to(self.sums.device)

    def scale(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, (F,) each; (0, 1) without values.

        They are cached until `sums` changes, which is detected by torch's write counter.
        """
        sums, kept = self.sums, self._scale
        if sums.is_cuda and torch.cuda.is_current_stream_capturing():
            return self._measured()  # a CUDA graph recomputes them at each replay, from the current `sums`
        if kept is not None and kept.sums is sums and kept.writes == writes(sums):
            return kept.mean, kept.std
        mean, std = self._measured()
        if not is_stand_in(mean):
            self._scale = Scale(sums, writes(sums), mean, std)
        return mean, std

    def _measured(self) -> tuple[Tensor, Tensor]:
        count, total, square = self.sums
        known = count.clamp(min=1.0)
        mean = total / known
        variance = square / known - mean * mean
        # A constant feature has, by rounding, a variance of about 1e-16 * mean^2, which must count as zero. float32
        # values were additionally rounded to a relative 1e-7.
        least = 1e-12 if self.dtype == torch.float32 else 1e-14
        flat = (count < 2) | (variance <= least * (1.0 + mean * mean))
        return mean.to(self.dtype), torch.where(flat, 1.0, variance.clamp(min=1e-30).sqrt()).to(self.dtype)

    def standardise(self, values: Tensor) -> Tensor:
        """Return (values - mean) / std, (B, F). Missing values stay NaN."""
        mean, std = self.scale()
        return (values - mean) / std

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cache out: a copy counts writes to its own `sums` from 0."""
        return {**self.__dict__, "_scale": None}
