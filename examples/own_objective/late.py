"""Your own objective in ten lines: the value below which nine labels in ten are.

incr run examples/own_objective/job.toml
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from incr_core.metrics import Statistics
from incr_core.objectives import Objective


class Quantile(Objective):
    """A quantile of the label: the pinball loss of Koenker & Bassett 1978, "Regression quantiles"."""

    main_metric = "pinball"

    def __init__(self, quantile: float = 0.9) -> None:
        super().__init__()
        self.quantile = quantile

    def rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return q (y - output) for labels above the output, and (1 - q) (output - y) for labels below it, (B,)."""
        error = targets - output.reshape(-1)
        return torch.maximum(self.quantile * error, (self.quantile - 1) * error)

    def predict(self, output: Tensor) -> Tensor:
        """Return the quantile, (B,)."""
        return output.reshape(-1).float()

    def measure(self, prediction: Tensor, targets: Tensor, weights: Tensor | None = None) -> Statistics:
        """Return sums over rows, which can be added between workers."""
        below = (targets <= prediction).double()
        terms = torch.stack([self.rows(prediction, targets).double(), below, torch.ones_like(below)])
        return {"sums": np.asarray((terms if weights is None else terms * weights).sum(1))}

    def metrics(self, statistics: Statistics) -> dict[str, float]:
        """Return the mean loss, and the share of rows below the prediction."""
        loss, below, rows = statistics["sums"].tolist()
        return {"pinball": loss / rows, "coverage": below / rows}
