"""The logarithm of numbers whose size matters by factors, such as prices, counts and durations."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from incr_core.models._derived import Derived
from incr_core.models._moments import Moments

__all__ = ["Magnitudes"]

SKEWED = 1.5
"""By how much the mean of a column's positive numbers exceeds their geometric mean where their logarithm is of use."""

CLIP = 4.0
"""Standard deviations of the logarithm beyond which it is cut off."""

NOTHING = -3.0
"""Standard deviations below the mean at which 0 is put, which has no logarithm."""


class Magnitudes(nn.Module):
    """The standardised logarithm of columns without negative numbers in which a few large ones hold most of the sum.

        m = (log v - mean of log v) / std of log v        where no v < 0 was seen, and mean v / exp(mean log v) > 1.5

    and 0 for all other columns, and where v is missing. The ratio is 1.4 for numbers spread evenly from 0 on, 1.8 for
    exponential ones, exp(s^2 / 2) for log-normal ones of spread s. Of these a standard deviation tells little: most
    rows lie within a small part of one. All statistics are sums that merge exactly.

    >>> magnitudes = Magnitudes(2)
    >>> v = torch.stack([10.0 ** torch.arange(-2.0, 3.0), torch.arange(5.0)], dim=1)
    >>> for name, value in magnitudes.measure(v, v).items():
    ...     _ = magnitudes.get_buffer(name).add_(value)
    >>> magnitudes(v)[2:4].round(decimals=2)
    tensor([[0.0000, 0.0000],
            [0.7100, 0.0000]])
    """

    draws_nothing: ClassVar[bool] = True
    merge: ClassVar[dict[str, str]] = {"negative": "sum", "total": "sum"}
    negative: Tensor
    total: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.logs = Moments(features)
        self.register_buffer("negative", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("total", torch.zeros(features, dtype=torch.float64))
        self._skewed = Derived[tuple[Tensor]]()

    def measure(self, values: Tensor, bounded: Tensor) -> dict[str, Tensor]:
        """What rows (B, F) add to the buffers; bounded: the same, wild ones cut off, for the mean."""
        return {
            "logs.sums": self.logs.measure(_log(values)),
            "negative": (values < 0).sum(0, dtype=torch.float64),
            "total": bounded.double().clamp(min=0.0).nan_to_num(0.0).sum(0),
        }

    def forward(self, values: Tensor) -> Tensor:
        """(B, F) float32."""
        found = self.logs.standardise(_log(values)).clamp(-CLIP, CLIP).nan_to_num(0.0)
        return torch.where(self.skewed(), torch.where(values == 0, NOTHING, found), 0.0)

    def skewed(self) -> Tensor:
        """The columns whose logarithm is of use, (F,) bool."""
        return self._skewed.of(self.total, self._found)[0]  # of the buffers, `total` is the last to change

    def _found(self) -> tuple[Tensor]:
        count, logs, _ = self.logs.sums
        known = count.clamp(min=1.0)
        return ((self.negative == 0) & (count >= 2) & (self.total / known > SKEWED * (logs / known).exp()),)


def _log(values: Tensor) -> Tensor:
    """log v of positive numbers, NaN of others."""
    return torch.where(values > 0, values, torch.nan).log()
