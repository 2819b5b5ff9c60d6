"""What a participant tells about rows so that a drift can be noticed where the rows are not: sums over a few of them.

Everything told is known before the rows are learned: how wrong predictions were, made when their rows arrived, once
their labels are known; or the features of rows that arrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from incr_core.batch import Inputs
from incr_core.objectives import Objective

__all__ = ["Watch", "merged_pieces", "pieces"]

PIECE = 8
"""Rows in a sum. More would blur what several participants tell together; fewer would say more about single rows."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What to tell about each increment: (m, 2, F) sums and counts over every `rows` rows, in their order.

    kind: "loss" or "error" of the predictions scored, or "features" of the rows that arrive, of the `columns` of the
    numeric inputs.

    >>> from incr_core.objectives import Binary
    >>> wrong = Watch("error", rows=2)
    >>> wrong.scored(Binary(), torch.tensor([0.9, 0.8, 0.1]), torch.tensor([1.0, 0.0, 0.0])).tolist()
    [[[1.0], [2.0]], [[0.0], [1.0]]]
    """

    kind: str
    rows: int = PIECE
    columns: tuple[int, ...] = ()

    def scored(self, objective: Objective, predictions: Tensor, targets: Tensor) -> Tensor:
        """About rows whose labels have become known, (B, ...) predictions and (B,) targets."""
        if self.kind == "features":
            return torch.zeros(0, 2, len(self.columns), dtype=torch.float64)
        values = objective.prediction_losses if self.kind == "loss" else objective.prediction_errors
        return pieces(values(predictions, targets).reshape(-1, 1), self.rows)

    def arriving(self, inputs: Inputs) -> Tensor:
        """About rows to be predicted."""
        numeric = inputs["numeric"] if isinstance(inputs, dict) else inputs
        if self.kind != "features":
            return torch.zeros(0, 2, 1, dtype=torch.float64)
        return pieces(numeric[:, list(self.columns)], self.rows)


def pieces(values: Tensor, rows: int) -> Tensor:
    """Sums and counts of the finite values (B, F) of every `rows` rows, (m, 2, F) float64.

    >>> pieces(torch.tensor([[1.0], [2.0], [torch.nan]]), 2).tolist()
    [[[3.0], [2.0]], [[0.0], [0.0]]]
    """
    count = -(-len(values) // rows)
    known = values.isfinite()
    whole = torch.zeros(count * rows, 2, values.shape[1], dtype=torch.float64)
    whole[: len(values), 0] = torch.where(known, values, 0.0).double()
    whole[: len(values), 1] = known.double()
    return whole.reshape(count, rows, 2, values.shape[1]).sum(1)


def merged_pieces(told: Sequence[Tensor]) -> Tensor:
    """What all participants told, by place and then by participant: about the order in which the rows came.

    >>> one, two = torch.tensor([1.0, 2.0]).reshape(2, 1, 1), torch.tensor([5.0]).reshape(1, 1, 1)
    >>> merged_pieces([one, two]).flatten().tolist()
    [1.0, 5.0, 2.0]
    """
    if len(told) == 1:
        return told[0]
    places = torch.cat([torch.arange(len(part)) for part in told])
    return torch.cat(list(told)).index_select(0, places.argsort(stable=True))
