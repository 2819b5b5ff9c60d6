"""Two experts that take no steps: ridge regressions on numbers and on random features, from sums of rows that fade."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from incr_core.models._derived import Derived
from incr_core.models._forward_decay import freshness
from incr_core.models._random_features import LEVELS, STEPS, RandomFeatures
from incr_core.models._ridge_sums import RidgeSums

__all__ = ["SolvedExperts"]

FEATURES = 256
HALF_LIFE = 4000.0
"""Number of rows after which the weight of a row in the sums is halved."""

PENALTY = STEPS**2
"""Penalty on weights, in units of levels: 1 corresponds to one row for a feature of one standard deviation."""


class SolvedExperts(nn.Module):
    """Two answers to a row's numbers that minimise squared errors in closed form: linear ones, without and with random
    features of the numbers.

        l = levels of x        h = [ l | random features of x ]        answers = [ l V + a | h W + b ]
        V, a = argmin sum_i g(n_i) |y_i - l_i V - a|^2 + penalty |V|^2        g: `freshness`
        W, b = argmin sum_i g(n_i) |y_i - h_i W - b|^2 + penalty |W|^2

    The sums are all that is kept of rows, and those of participants add up (`RidgeSums`). Both are solved from the same
    sums, of which the first needs a block. They are solved when the sums change.

    outputs: K, of each. varied: how many of the inputs are of unit scale, the others mostly 0. features: how many
    random ones.

    >>> experts = SolvedExperts(inputs=1, outputs=1, varied=1)
    >>> x = torch.linspace(-1, 1, 200)[:, None]
    >>> for _ in range(2):
    ...     for name, value in experts.measure(x, (x**2).double()).items():
    ...         _ = experts.get_buffer(name).add_(value)
    >>> (experts(x) - x**2).abs().amax(0) < 0.05
    tensor([False,  True])
    """

    draws_nothing: ClassVar[bool] = True
    merge: ClassVar[dict[str, str]] = {"rows_before": "sum"}
    rows_before: Tensor

    def __init__(self, inputs: int, outputs: int, varied: int, features: int = FEATURES) -> None:
        super().__init__()
        scale = (inputs / varied) ** 0.5
        self.inputs = inputs
        self.random = RandomFeatures(inputs, features, scale=scale)
        self.sums = RidgeSums(inputs + features, outputs)
        self.register_buffer("rows_before", torch.zeros((), dtype=torch.float64))
        self._solutions = Derived[tuple[Tensor, Tensor, Tensor, Tensor]]()

    def _features(self, inputs: Tensor) -> Tensor:
        levels = (inputs.float() * STEPS).round().clamp(-LEVELS, LEVELS)
        return torch.cat([levels, self.random(inputs)], dim=1)

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
        """Both answers, (B, 2 K); 0 while there are no sums."""
        features = self._features(inputs)
        linear, linear_bias, weight, bias = self._solutions.of(self.sums.gram, self._solved)
        answers = [
            torch.addmm(linear_bias, features[:, : self.inputs], linear),
            torch.addmm(bias, features, weight),
        ]
        return torch.cat(answers, dim=1)

    def _solved(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        penalty = PENALTY * float(freshness(self.rows_before, HALF_LIFE))
        linear, whole = self.sums.solve(penalty, self.inputs), self.sums.solve(penalty)
        return linear.weight.float(), linear.bias.float(), whole.weight.float(), whole.bias.float()
