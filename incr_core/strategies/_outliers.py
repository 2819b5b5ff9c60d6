"""Down-weighting of rows whose inputs are outliers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from incr_core.batch import Batch, Inputs
from incr_core.errors import StrategyError
from incr_core.strategies._arguments import at_least_one, not_negative, positive
from incr_core.strategies._base import Context, Strategy
from incr_core.strategies._traits import Traits

__all__ = ["Outliers"]


class Outliers(Strategy):
    """Reduce the weight of a row with the distance of its inputs from recent rows.

        d_i^2 = mean over features of ((x - mean) / std)^2        missing features left out
        f_i   = min(1, threshold / d_i) ^ strength

    d is the Mahalanobis distance with a diagonal covariance, averaged over features, so a typical row has d near 1 for
    any number of features. With strength 1 the factor is the Huber weight. mean and std cover approximately the last
    `window` rows, each weighted by its f_i, so that an outlier hardly changes them. They start with the first step, and
    never leave the participant.

    Args:
        strength: Exponent of the factor. 0 turns the strategy off.
        threshold: Distance above which a row counts less.
        window: Number of rows that mean and std cover.

    Example:
        >>> Outliers(threshold=4.0).extra_repr()
        'strength=1.0, threshold=4.0, window=10000'

    Reference:
        Huber 1964, "Robust estimation of a location parameter", section 4.
    """

    traits = Traits(rowwise=False)

    def __init__(self, strength: float = 1.0, threshold: float = 3.0, window: int = 10_000) -> None:
        super().__init__()
        self.strength = not_negative("outliers.strength", strength)
        self.threshold = positive("outliers.threshold", threshold)
        self.window = at_least_one("outliers.window", window)
        self._sums: Tensor | None = None  # weight, sum and sum of squares of each feature, (3, F), float64

    def weigh(self, ctx: Context, batch: Batch, output: Tensor) -> Tensor | None:
        """Return a factor for each row by its distance."""
        if self.strength == 0 or self._sums is None:
            return None
        return self._factor(_numbers(batch.inputs)).to(output.dtype)

    def _factor(self, values: Tensor) -> Tensor:
        assert self._sums is not None
        self._sums = self._sums.to(values.device)
        weight, total, square = self._sums
        mean = total / weight.clamp(min=1e-12)
        variance = square / weight.clamp(min=1e-12) - mean * mean
        # A constant feature has no scale for a distance.
        flat = variance <= 1e-12 * (1 + mean * mean)
        z = ((values - mean) / variance.clamp(min=1e-300).sqrt()).masked_fill(flat | values.isnan(), 0.0)
        counted = (~flat & ~values.isnan()).sum(1).clamp(min=1)
        distance = (z.square().sum(1) / counted).sqrt()
        factor: Tensor = (self.threshold / distance.clamp(min=self.threshold)).pow(self.strength)
        return factor

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """Add the new rows to the sums, and decay the older ones."""
        if self.strength == 0:
            return
        values = _numbers(batch.inputs)
        factor = torch.ones_like(values[:, 0]) if self._sums is None else self._factor(values)
        known = ~values.isnan()
        values, factors = values.nan_to_num(0.0), factor[:, None] * known
        fresh = torch.stack([factors.sum(0), (factors * values).sum(0), (factors * values.square()).sum(0)])
        fading = max(0.0, 1.0 - len(batch) / self.window)
        self._sums = fresh if self._sums is None else fading * self._sums + fresh

    def get_extra_state(self) -> dict[str, Any]:
        """Return the sums, or None before the first row."""
        return {"sums": self._sums}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore the sums."""
        self._sums = None if state["sums"] is None else state["sums"].clone()


def _numbers(inputs: Inputs) -> Tensor:
    """Return the floating inputs of rows side by side, (B, F), in float64."""
    tensors = [inputs] if isinstance(inputs, Tensor) else list(inputs.values())
    floating = [tensor.flatten(1).double() for tensor in tensors if tensor.is_floating_point()]
    if not floating or not sum(tensor.shape[1] for tensor in floating):
        raise StrategyError("outliers: expected inputs with numbers, got categories alone; leave the strategy out")
    return torch.cat(floating, dim=1)
