"""What an increment says of experts before they learn it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from incr_core.batch import Batch, split_inputs
from incr_core.models import LearnsFromSums
from incr_core.objectives import Blend
from incr_core.update import Weights

if TYPE_CHECKING:
    from incr_core.learner._learner import Learner

__all__ = ["judged"]

BATCH = 8192
"""Rows that are answered at one time."""


@torch.no_grad()
def judged(learner: Learner, labelled: Batch) -> Weights:
    """How wrong the experts are about rows that they are about to learn, and what these add to sums to solve from.

    Additive, by the statistic's name in the learner's weights; nothing where there are no experts.
    """
    objective, model = learner.objective, learner.model
    if not isinstance(objective, Blend):
        return {}
    labelled = labelled.to(learner.device)
    learner.forwards.set_mode(training=False)
    with learner.forwards.predicting(), learner.precision.autocast():
        output = torch.cat([model(part) for part in split_inputs(labelled.inputs, BATCH)])
    found = objective.observe_answers(output.float(), labelled.targets, labelled.weights)
    measured = {f"objective.{name}": value for name, value in found.items()}
    if isinstance(model, LearnsFromSums):
        sums = model.observe_labelled(labelled.inputs, objective.numbers(labelled.targets), labelled.weights)
        measured |= {f"model.{name}": value for name, value in sums.items()}
    return measured
