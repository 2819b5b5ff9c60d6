"""Evaluation of experts on an increment before it is learned."""

from __future__ import annotations

import torch
from torch import nn

from incr_core.batch import Batch, split_inputs
from incr_core.learner._forwards import Forwards
from incr_core.models import LearnsFromSums
from incr_core.numerics import Precision
from incr_core.objectives import Blend
from incr_core.update import Weights

__all__ = ["judged"]

BATCH = 8192
"""Rows per forward."""


@torch.no_grad()
def judged(model: nn.Module, objective: Blend, forwards: Forwards, precision: Precision, labelled: Batch) -> Weights:
    """Return the experts' errors on rows about to be learned, and the rows' additions to sums of closed-form experts.

    The values are additive, by the statistic's name in the learner's weights. The rows are on the model's device.
    """
    forwards.set_mode(training=False)
    with forwards.predicting(), precision.autocast():
        output = torch.cat([model(part) for part in split_inputs(labelled.inputs, BATCH)])
    found = objective.observe_answers(output.float(), labelled.targets, labelled.weights)
    measured = {f"objective.{name}": value for name, value in found.items()}
    if isinstance(model, LearnsFromSums):
        sums = model.observe_labelled(labelled.inputs, objective.numbers(labelled.targets), labelled.weights)
        measured |= {f"model.{name}": value for name, value in sums.items()}
    return measured
