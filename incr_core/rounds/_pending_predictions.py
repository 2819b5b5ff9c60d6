"""Predictions whose labels are not known yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["PendingPredictions"]


class PendingPredictions:
    """Predictions waiting for their labels, by row id.

    Example:
        >>> pending = PendingPredictions()
        >>> pending.add(torch.tensor([7, 9, 8]), torch.tensor([0.7, 0.9, 0.8]))
        >>> place, predictions = pending.take(torch.tensor([5, 9, 7]))
        >>> place.tolist(), predictions.tolist(), len(pending.rows)
        ([1, 2], [0.8999999761581421, 0.699999988079071], 1)
    """

    def __init__(self) -> None:
        self.rows = torch.empty(0, dtype=torch.int64)  # ascending
        self.predictions: Tensor | None = None

    def add(self, rows: Tensor, predictions: Tensor) -> None:
        """Store predictions (n, ...) of these rows."""
        if self.predictions is not None:
            rows, predictions = torch.cat([self.rows, rows]), torch.cat([self.predictions, predictions])
        self.rows, order = rows.sort()
        self.predictions = predictions.index_select(0, order)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Remove and return the predictions of `rows`: their places in `rows`, and the predictions."""
        if self.predictions is None or len(self.rows) == 0 or len(rows) == 0:
            return torch.empty(0, dtype=torch.int64), torch.empty(0)
        where = torch.searchsorted(self.rows, rows).clamp(max=len(self.rows) - 1)
        place = (self.rows[where] == rows).nonzero().flatten()
        where = where[place]
        found = self.predictions[where]
        left = torch.ones(len(self.rows), dtype=torch.bool)
        left[where] = False
        self.rows, self.predictions = self.rows[left], self.predictions[left]
        return place, found

    def join(self, other: PendingPredictions, part: int, of: int) -> None:
        """Add part `part` of `of` of another object's predictions, dealt in turn."""
        if other.predictions is not None and len(other.rows):
            self.add(other.rows[part::of], other.predictions[part::of])

    def state_dict(self) -> dict[str, Any]:
        """Return rows and predictions."""
        return {"rows": self.rows, "predictions": self.predictions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore rows and predictions."""
        self.rows, self.predictions = state["rows"], state["predictions"]
