"""A version as one module: named tensors in, what is told of a row out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from incr_core.batch import Inputs
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.models.adapt import fold_weights
from incr_core.objectives import Objective
from incr_core.shown import shown

__all__ = ["Answering", "check_exportable", "named_inputs"]

OUTPUTS = {"binary": "probability", "multiclass": "probabilities", "multilabel": "probabilities", "regression": "value"}
"""Objective -> what a model's output is called. Others tell more than can be read off one tensor of a row's."""


class Answering(nn.Module):
    """A copy of a version's model, on the CPU, that gives what `Version.predict` tells: probabilities or values.

    numeric (B, N), categorical (B, C, 2) and task (B,): those of them that the model takes.

    >>> from incr_core.objectives import Binary
    >>> Answering(nn.Linear(2, 1), Binary())(numeric=torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        # Made by `named_inputs` where a row has no numbers, since an input that holds nothing is none to ONNX.
        self.model = copy.deepcopy(model).cpu().eval()
        fold_weights(self.model)
        self.objective = copy.deepcopy(objective).cpu().eval()

    def forward(
        self, numeric: Tensor | None = None, categorical: Tensor | None = None, task: Tensor | None = None
    ) -> Tensor:
        """Probabilities or values, (B,) or (B, C)."""
        if numeric is None:
            assert categorical is not None
            numeric = torch.zeros(categorical.shape[0], 0)
        given = {"numeric": numeric, "categorical": categorical, "task": task}
        inputs: Inputs = {name: value for name, value in given.items() if value is not None}
        told: Tensor = self.objective.predict(self.model(numeric if len(inputs) == 1 else inputs))
        return told


def named_inputs(inputs: Inputs) -> dict[str, Tensor]:
    """The inputs of a batch as an exported model takes them.

    >>> list(named_inputs({"numeric": torch.zeros(2, 0), "categorical": torch.zeros(2, 1, 2)}))
    ['categorical']
    """
    named = inputs if isinstance(inputs, dict) else {"numeric": inputs}
    return {name: value for name, value in named.items() if name != "numeric" or value.shape[1]}


def check_exportable(job: Job, learner: Learner) -> None:
    """JobError that names what of a job no exported model can do, and what to do instead."""
    objective = job.learner.objective
    if objective not in OUTPUTS:
        raise JobError(
            f"learner.objective: expected one of {', '.join(OUTPUTS)} to export, got {objective!r}, whose answers are "
            "no columns of one tensor; serve it (incr serve), or ask it in Python (Version.predict)"
        )
    for key, columns, instead in (
        ("text", job.features.text, "serve it (incr serve)"),
        ("date", job.features.date, "serve it (incr serve), or name them in features.numeric, as days since 1970"),
    ):
        if columns:
            raise JobError(
                f"features.{key}: expected none to export, since encoder.py makes inputs of numbers and categories, "
                f"got {shown(columns[0], 60)}; {instead}"
            )
    if job.model.kind == "auto":
        raise JobError(
            'model.kind = "auto": expected a model of one network to export, got experts side by side, whose mix '
            "follows the newest rows; serve it (incr serve), or teach one network what they know: incr distill DIR "
            "--out DIR2 --student 'model.kind=\"mlp\"' --student learner.epochs=1"
        )
    if job.features.ids:
        raise JobError(
            "features.ids: expected a model without tables of ids to export, since an id is found by its key, of which "
            "ONNX has no operator; serve it (incr serve), or name the columns in features.categorical"
        )
    if any(step.name == "experts" for step in job.model.adapt):
        raise JobError(
            "model.adapt experts: expected a model of one path to export, got experts, of which each row chooses one; "
            "serve it (incr serve), or teach one model what they know: incr distill DIR --out DIR2 --student "
            "'model.adapt=[]'"
        )
    if any(value.is_complex() for value in learner.model.state_dict().values()):
        raise JobError(
            "model: expected weights that are real numbers to export, got complex ones; serve it (incr serve)"
        )
