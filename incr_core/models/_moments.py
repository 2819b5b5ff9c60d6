"""Running mean and variance whose merge between participants is exact."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from incr_core.numerics import is_stand_in, writes

__all__ = ["Moments"]


class Scale(NamedTuple):
    """What `Moments.scale` made of `sums` after so many writes to it."""

    sums: Tensor
    writes: int
    mean: Tensor
    std: Tensor


class Moments(nn.Module):
    """Count, sum and sum of squares of F features, in float64.

    The three are additive, so the statistics of two participants are the sum of theirs, whatever the split:

        count += n        total += sum_i x_i        square += sum_i x_i^2
        mean = total / count        var = square / count - mean^2

    Missing values (NaN) are left out of the feature they are missing from. With fewer than two values, or none that
    differ, the mean is taken off but nothing is divided.

    dtype: what mean and standard deviation are told in; float64 for values whose offset is large beside their spread.

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
        """What the rows `values` (B, F) would add: (3, F) of count, sum and sum of squares."""
        values = values.double()
        known = ~values.isnan()
        values = torch.where(known, values, 0.0)
        return torch.stack([known.sum(0, dtype=torch.float64), values.sum(0), (values * values).sum(0)])

    @torch.no_grad()
    def add(self, measured: Tensor) -> None:
        """Take in what `measure` returned, here or on another participant."""
        self.sums += measured.to(self.sums.device)

    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (F,) each; (0, 1) where nothing is known.

        They are kept until `sums` changes, which may happen anywhere: a tensor counts the writes to itself.
        """
        sums, kept = self.sums, self._scale
        if sums.is_cuda and torch.cuda.is_current_stream_capturing():
            return self._measured()  # a graph works them out at each replay, from `sums` as it then is
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
        # Rounding leaves a constant feature with a variance of about 1e-16 * mean^2: that is zero, not a scale. And a
        # float32 has rounded its values to 1e-7 of their size before.
        least = 1e-12 if self.dtype == torch.float32 else 1e-14
        flat = (count < 2) | (variance <= least * (1.0 + mean * mean))
        return mean.to(self.dtype), torch.where(flat, 1.0, variance.clamp(min=1e-30).sqrt()).to(self.dtype)

    def standardise(self, values: Tensor) -> Tensor:
        """(values - mean) / std, (B, F). Missing values stay missing (NaN)."""
        mean, std = self.scale()
        return (values - mean) / std

    def __getstate__(self) -> dict[str, Any]:
        """A copy counts the writes to its own `sums` from 0, so it keeps nothing."""
        return {**self.__dict__, "_scale": None}
