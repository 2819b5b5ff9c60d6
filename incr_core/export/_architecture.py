"""What a file of weights is the weights of, as JSON: enough to build the model and to read its output."""

from __future__ import annotations

from typing import Any

import torch

from incr_core.batch import Batch
from incr_core.export._answering import named_inputs
from incr_core.export._int8 import is_quantisation_aware
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.objectives import Multiclass, Regression

__all__ = ["architecture"]

READ = {
    "binary": "probability of the second class = sigmoid(output)",
    "multiclass": "probabilities = softmax over the outputs that are `seen`, and 0 for the others",
    "multilabel": "probabilities = sigmoid(output)",
    "regression": "value = mean + std * output",
}


def architecture(job: Job, learner: Learner, batch: Batch, int8: bool) -> dict[str, Any]:
    """What `architecture.json` holds: the job's sections that make the model, its inputs, how its output is read.

    batch: some rows.
    """
    document, objective = job.document(), learner.objective
    output: dict[str, Any] = {"numbers": objective.outputs, "read": READ[job.learner.objective]}
    if isinstance(objective, Regression):
        mean, std = objective.target.scale()
        output |= {"mean": float(mean), "std": float(std)}
    if isinstance(objective, Multiclass):  # a growing one has outputs for classes that nobody has met yet
        reached = objective.visible(torch.zeros(1, objective.outputs))[0] >= 0
        output["seen"] = reached.nonzero().flatten().tolist()
    made: dict[str, Any] = {
        "schema": 1,
        "model": document["model"],
        "features": document["features"],
        "objective": job.learner.objective,
        "class": _named(type(learner.model)),
        "inputs": {
            name: [*value.shape[1:], str(value.dtype).removeprefix("torch.")]
            for name, value in named_inputs(batch.inputs).items()
        },
        "output": output,
    }
    if int8:
        made["int8"] = (
            "NAME.weight is int8: the weight of the layer is NAME.weight * NAME.weight_scale, (out, in) * (out, 1)"
        )
    if is_quantisation_aware(learner.model):
        made["rounded_inputs"] = (
            "of a layer NAME.base: s (clamp(round(x / s) + z, 0, 255) - z), with s = (high - low) / 255 and z = "
            "round(-low / s); low and high are NAME.inputs.ends"
        )
    return made


def _named(kind: type) -> str:
    """A class by the name that it is imported by.

    >>> from incr_core.models import TableMLP
    >>> _named(TableMLP)
    'incr_core.models.TableMLP'
    """
    parts = [part for part in kind.__module__.split(".") if not part.startswith("_")]
    return ".".join([*parts, kind.__qualname__])
