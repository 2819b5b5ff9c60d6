"""Running mean and variance that merge exactly between participants."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from incr_core.models._derived import Derived

__all__ = ["Moments"]


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
    sums: Tensor

    def __init__(self, features: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.register_buffer("sums", torch.zeros(3, features, dtype=torch.float64))
        self._scale = Derived[tuple[Tensor, Tensor]]()

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
        """Mean and standard deviation, (F,) each; (0, 1) where nothing is known."""
        return self._scale.of(self.sums, self._measured)

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
