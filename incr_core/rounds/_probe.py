"""Statistics that participants report so that the driver can detect drift, although rows never leave their owners.

They are sums over a few rows each, computed before the rows are learned: of the loss or error of predictions, once
their labels are known, or of the features of rows that arrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from incr_core.batch import Inputs
from incr_core.objectives import Objective

__all__ = ["PROBED", "PROBE_ROWS", "Probe", "block_sums", "interleaved"]

PROBED = ("loss", "error", "features")
"""The statistics that a probe can report."""

PROBE_ROWS = 8
"""Rows per sum. More would blur the order of several participants' rows; fewer would reveal more about single rows."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A report about each increment: sums and counts (m, 2, F) over every `rows` rows, in order.

    Attributes:
        statistic: "loss" or "error" of the predictions scored, or "features".
        rows: Rows per sum.
        columns: For "features", the columns of the numeric inputs of the rows that arrive.

    Example:
        >>> from incr_core.objectives import Binary
        >>> probe = Probe("error", rows=2)
        >>> probe.of_scored(Binary(), torch.tensor([0.9, 0.8, 0.1]), torch.tensor([1.0, 0.0, 0.0])).tolist()
        [[[1.0], [2.0]], [[0.0], [1.0]]]
    """

    statistic: str
    rows: int = PROBE_ROWS
    columns: tuple[int, ...] = ()

    def of_scored(self, objective: Objective, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return sums over rows whose labels have become known, (B, ...) predictions and (B,) targets.

        Predictions that are not finite do not count.
        """
        if self.statistic == "features":
            return torch.zeros(0, 2, len(self.columns), dtype=torch.float64)
        if not len(predictions):  # of no shape that an objective knows
            return torch.zeros(0, 2, 1, dtype=torch.float64)
        values = objective.prediction_losses if self.statistic == "loss" else objective.prediction_errors
        sound = predictions.isfinite().reshape(len(predictions), -1).all(1)
        found = values(predictions.nan_to_num(0.0), targets).double()
        return block_sums(torch.where(sound, found, torch.nan).reshape(-1, 1), self.rows)

    def of_arriving(self, inputs: Inputs) -> Tensor:
        """Return sums over rows to be predicted."""
        if self.statistic != "features":
            return torch.zeros(0, 2, 1, dtype=torch.float64)
        numeric = inputs["numeric"] if isinstance(inputs, dict) else inputs
        return block_sums(numeric[:, list(self.columns)], self.rows)


def block_sums(values: Tensor, rows: int) -> Tensor:
    """Return sums and counts of the finite values (B, F) of every `rows` rows, (m, 2, F) float64.

    Example:
        >>> block_sums(torch.tensor([[1.0], [2.0], [torch.nan]]), 2).tolist()
        [[[3.0], [2.0]], [[0.0], [0.0]]]
    """
    count = -(-len(values) // rows)
    known = values.isfinite()
    whole = torch.zeros(count * rows, 2, values.shape[1], dtype=torch.float64)
    whole[: len(values), 0] = torch.where(known, values, 0.0).double()
    whole[: len(values), 1] = known.double()
    return whole.reshape(count, rows, 2, values.shape[1]).sum(1)


def interleaved(reports: Sequence[Tensor]) -> Tensor:
    """Interleave the sums of all participants, by place and then by participant, which approximates the order of
    arrival.

    Example:
        >>> one, two = torch.tensor([1.0, 2.0]).reshape(2, 1, 1), torch.tensor([5.0]).reshape(1, 1, 1)
        >>> interleaved([one, two]).flatten().tolist()
        [1.0, 5.0, 2.0]
    """
    if len(reports) == 1:
        return reports[0]
    places = torch.cat([torch.arange(len(report)) for report in reports])
    return torch.cat(list(reports)).index_select(0, places.argsort(stable=True))
