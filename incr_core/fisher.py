"""The diagonal of the Fisher information, from per-sample gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from incr_core.batch import Batch, Inputs, map_inputs
from incr_core.objective import Objective
from incr_core.unsharded import unsharded, whole_weights

__all__ = ["fisher_diagonal", "rows_at_once"]

GRADIENT_FLOATS = 6_000_000
"""Gradients of single rows held at a time. Beyond some 24 MB the allocator asks the system for fresh pages each time,
and clearing them takes ten times as long as the gradients."""


def fisher_diagonal(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    generator: torch.Generator | None = None,
    chunk: int | None = None,
) -> dict[str, Tensor]:
    """How strongly the model's predictions depend on each weight: the mean over rows of

        F_j = E_{y ~ p(y|x)} [ (d log p(y|x) / d w_j)^2 ] = sum_k ( d (s_k . output(x)) / d w_j )^2

    where the score vectors s_k of the objective satisfy sum_k s_k s_k^T = E_y[score score^T] (`Objective.scores`).
    The expectation is over the model's own predictions, exact for few outputs and by one draw a row for many
    (Kirkpatrick et al. 2017; Kunstner et al. 2019 on why neither labels nor squared batch gradients will do).

    batch: N rows; chunk: how many at a time, see `rows_at_once`. Returns one tensor per trainable parameter, by name,
    of its whole shape, also where `model` is sharded (a collective call then). The model runs in eval mode.

    >>> from incr_core.objective import Binary
    >>> model = nn.Linear(1, 1, bias=False); _ = nn.init.zeros_(model.weight)
    >>> fisher_diagonal(model, Binary(), Batch(torch.tensor([[2.0]]), torch.ones(1)))["weight"]
    tensor([[1.]])
    """
    weights, fixed = whole_weights(model)
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}

    def project(weights: dict[str, Tensor], inputs: Inputs, score: Tensor) -> Tensor:
        row = map_inputs(lambda value: value[None], inputs)
        output: Tensor = functional_call(model, (weights, fixed), (row,))
        return (output.reshape(-1) * score).sum()

    per_row = vmap(grad(project), in_dims=(None, 0, 0), randomness="different")
    was_training = model.training
    model.eval()
    try:
        with unsharded(model):
            for part in batch.split(rows_at_once(weights) if chunk is None else chunk):
                with torch.no_grad():
                    output: Tensor = functional_call(model, (weights, fixed), (part.inputs,))
                    scores = objective.scores(output, generator)
                for score in scores:
                    for name, gradient in per_row(weights, part.inputs, score).items():
                        total[name] += gradient.square().sum(0)
    finally:
        model.train(was_training)
    return {name: value / max(1, len(batch)) for name, value in total.items()}


def rows_at_once(weights: Mapping[str, Tensor]) -> int:
    """How many rows' own gradients to hold at a time: many for small models, few for large ones.

    >>> rows_at_once({"w": torch.zeros(10, 10)}), rows_at_once({"w": torch.zeros(1000, 1000)})
    (64, 6)
    """
    return min(64, max(1, GRADIENT_FLOATS // sum(weight.numel() for weight in weights.values())))
