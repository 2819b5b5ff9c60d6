"""What a learner answers: predictions, and its loss on rows that it does not learn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from incr_core.batch import Batch, Inputs, map_inputs, split_inputs
from incr_core.learner._forwards import Forwards
from incr_core.numerics import Precision
from incr_core.objectives import Objective

__all__ = ["Predicting"]


class Predicting:
    """The part of a learner that answers and learns nothing from it.

    model, objective, device, precision, forwards: those of the learner.
    """

    model: nn.Module
    objective: Objective
    device: torch.device
    precision: Precision
    forwards: Forwards

    # Not `inference_mode`: a model (or FSDP) may keep what it makes here, and must still learn with it afterwards.
    @torch.no_grad()
    def predict(self, inputs: Inputs, batch_size: int = 8192) -> Tensor:
        """The objective's predictions for inputs (B, ...), on the CPU."""
        self.forwards.set_mode(training=False)
        rows = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
        with self.forwards.predicting(), self.precision.autocast():
            if rows <= batch_size:
                return self._predicted(inputs)
            return torch.cat([self._predicted(part) for part in split_inputs(inputs, batch_size)])

    def _predicted(self, inputs: Inputs) -> Tensor:
        there = map_inputs(lambda value: value.to(self.device), inputs)
        return self.objective.predict(self.model(there)).cpu()

    @torch.no_grad()
    def loss_of(self, rows: Batch, batch_size: int = 8192) -> float:
        """The objective's mean loss on some rows, as the model is when it predicts."""
        self.forwards.set_mode(training=False)
        total = weight = 0.0
        with self.forwards.predicting(), self.precision.autocast():
            for part in rows.to(self.device).split(batch_size):
                share = float(part.total_weight())
                total += share * float(self.objective(self.model(part.inputs), part.targets, part.weights))
                weight += share
        return total / weight if weight else 0.0
