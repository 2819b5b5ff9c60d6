"""Logarithms of columns that vary by orders of magnitude, such as prices, counts and durations."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from incr_core.models._derived import Derived
from incr_core.models._moments import Moments

__all__ = ["Magnitudes"]

SKEWED = 1.5
"""Ratio of the arithmetic to the geometric mean of a column's positive numbers above which its logarithm is used."""

CLIP = 4.0
"""Number of standard deviations at which the logarithm is clipped."""

NOTHING = -3.0
"""Value, in standard deviations, that represents 0, which has no logarithm."""


class Magnitudes(nn.Module):
    """Standardised logarithm of non-negative columns in which a few large numbers make up most of the sum.

        m = (log v - mean of log v) / std of log v        where no v < 0 was seen, and mean v / exp(mean log v) > 1.5

    The output is 0 for all other columns, and for missing v. The ratio is 1.4 for uniform numbers from 0 on, 1.8 for
    exponential ones, and exp(s^2 / 2) for log-normal ones with deviation s. A standard deviation is uninformative for
    such columns, because most rows are within a small fraction of it. All statistics are sums that merge exactly.

    Args:
        features: Number of columns.

    Example:
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
        """Return the additions of rows (B, F) to the buffers. `bounded` are the same values with outliers clipped."""
        return {
            "logs.sums": self.logs.measure(_log(values)),
            "negative": (values < 0).sum(0, dtype=torch.float64),
            "total": bounded.double().clamp(min=0.0).nan_to_num(0.0).sum(0),
        }

    def forward(self, values: Tensor) -> Tensor:
        """Return the standardised logarithms, (B, F) float32."""
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
    """Return log v of positive numbers, NaN of others."""
    return torch.where(values > 0, values, torch.nan).log()
