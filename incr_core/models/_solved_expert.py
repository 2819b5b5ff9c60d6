"""An expert in closed form: ridge regression on random features, from sums over rows with decay."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from incr_core.models._forward_decay import freshness
from incr_core.models._random_features import LEVELS, STEPS, RandomFeatures
from incr_core.models._ridge_sums import RidgeSums
from incr_core.numerics import is_stand_in, writes

__all__ = ["SolvedExpert"]

FEATURES = 256
HALF_LIFE = 4000.0
"""Number of rows after which the weight of a row in the sums is halved."""

PENALTY = STEPS**2
"""Penalty on weights, in units of levels: 1 corresponds to one row for a feature of one standard deviation."""


class Solution(NamedTuple):
    """Cache of the solution: computed from `gram` after `writes` writes to it."""

    gram: Tensor
    writes: int
    weight: Tensor
    bias: Tensor


class SolvedExpert(nn.Module):
    """A linear model on a row's numbers and random features of them, fitted by least squares in closed form.

        h = [ levels of x | random features of x ]        answer = h W + b
        W, b = argmin sum_i g(n_i) |y_i - h_i W - b|^2 + penalty |W|^2        g: `freshness`

    Only sums over rows are stored, and those of participants add up (`RidgeSums`). The model is solved when they
    change.

    Args:
        inputs: Number of inputs.
        outputs: Number of outputs.
        varied: Number of inputs with unit scale; the others are mostly 0.
        features: Number of random features; 0 gives a linear model.

    Example:
        >>> expert = SolvedExpert(inputs=1, outputs=1, varied=1)
        >>> x = torch.linspace(-1, 1, 200)[:, None]
        >>> for _ in range(2):
        ...     for name, value in expert.measure(x, (x**2).double()).items():
        ...         _ = expert.get_buffer(name).add_(value)
        >>> bool((expert(x) - x**2).abs().max() < 0.05)
        True
    """

    draws_nothing: ClassVar[bool] = True
    merge: ClassVar[dict[str, str]] = {"rows_before": "sum"}
    transient: ClassVar[tuple[str, ...]] = ("_solution",)
    rows_before: Tensor

    def __init__(self, inputs: int, outputs: int, varied: int, features: int = FEATURES) -> None:
        super().__init__()
        scale = (inputs / varied) ** 0.5
        self.random = RandomFeatures(inputs, features, scale=scale) if features else None
        self.sums = RidgeSums(inputs + features, outputs)
        self.register_buffer("rows_before", torch.zeros((), dtype=torch.float64))
        self._solution: Solution | None = None

    def _features(self, inputs: Tensor) -> Tensor:
        levels = (inputs.float() * STEPS).round().clamp(-LEVELS, LEVELS)
        return levels if self.random is None else torch.cat([levels, self.random(inputs)], dim=1)

    @torch.no_grad()
    def measure(self, inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return the additions of rows (B, D) and targets (B, K) about to be learned to the buffers.

        The first rows of all only add their number, because their normalisation is unknown and later rows will be
        normalised differently.
        """
        added = RidgeSums(self.sums.features.numel(), self.sums.targets.numel()).to(inputs.device)
        if bool(self.rows_before):
            added.add(self._features(inputs), targets, weights)
        fresh = freshness(self.rows_before, HALF_LIFE)
        found = {f"sums.{name}": value * fresh for name, value in added.named_buffers()}
        return {**found, "rows_before": torch.full_like(self.rows_before, float(len(targets)))}

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the predictions, (B, K); 0 while the sums are empty."""
        solution = self._solved()
        return torch.addmm(solution.bias, self._features(inputs), solution.weight)

    def _solved(self) -> Solution:
        gram, kept = self.sums.gram, self._solution
        if kept is not None and kept.gram is gram and kept.writes == writes(gram):
            return kept
        ridge = self.sums.solve(PENALTY * float(freshness(self.rows_before, HALF_LIFE)))
        found = Solution(gram, writes(gram), ridge.weight.float(), ridge.bias.float())
        if not is_stand_in(gram):
            self._solution = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cache out: a copy counts writes to its own sums from 0."""
        return {**self.__dict__, "_solution": None}
