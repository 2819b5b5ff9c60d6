"""Losses of single rows, for the comparison of versions."""

from __future__ import annotations

import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.learner import Learner

__all__ = ["losses_of"]

WORST = 1e6
"""The loss of a prediction that is not a number."""


def losses_of(learner: Learner, predictions: Tensor, rows: Batch) -> Tensor:
    """The loss of each row's prediction, (B,) float64. NaN if a row carries no information."""
    sound = predictions.isfinite().reshape(len(rows), -1).all(1)
    losses = learner.objective.prediction_losses(predictions.nan_to_num(0.0), rows.targets).double()
    return torch.where(sound, losses, WORST).clamp(max=WORST)
