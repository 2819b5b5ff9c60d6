"""Diagonal Fisher information from per-sample gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from incr_core.batch import Batch, Inputs, map_inputs
from incr_core.numerics import Applied, as_dense, as_reals, tree_flatten, tree_unflatten, unsharded, whole_weights
from incr_core.objectives import Objective

__all__ = ["fisher_diagonal", "gradients_of_rows", "rows_at_once"]

GRADIENT_FLOATS = 6_000_000
"""Maximum number of elements in per-row gradients held at once. Above some 24 MB the allocator requests new pages from
the system each time, and clearing these takes ten times as long as computing the gradients.
"""


def fisher_diagonal(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    generator: torch.Generator | None = None,
    chunk: int | None = None,
) -> dict[str, Tensor]:
    """Return the diagonal Fisher information of the weights, the mean over rows of

        F_j = E_{y ~ p(y|x)} [ (d log p(y|x) / d w_j)^2 ] = sum_k ( d (s_k . output(x)) / d w_j )^2

    where the score vectors s_k of the objective satisfy sum_k s_k s_k^T = E_y[score score^T] (`Objective.scores`). The
    expectation is over the model's own predictions. It is exact for few outputs, and estimated by one draw per row for
    many. Labels or squared batch gradients would give a different quantity (Kunstner et al. 2019).

    Args:
        model: The model; it runs in eval mode.
        objective: Supplies the scores.
        batch: N rows.
        generator: Source of the draws.
        chunk: Rows at a time; see `rows_at_once`.

    Returns:
        One tensor per trainable parameter, by name, in its whole shape. If `model` is sharded, this is a collective
        call. Complex weights count as pairs of real numbers, (..., 2).

    Example:
        >>> from incr_core.objectives import Binary
        >>> model = nn.Linear(1, 1, bias=False); _ = nn.init.zeros_(model.weight)
        >>> fisher_diagonal(model, Binary(), Batch(torch.tensor([[2.0]]), torch.ones(1)))["weight"]
        tensor([[1.]])

    Reference:
        Kirkpatrick et al. 2017; Kunstner et al. 2019.
    """
    weights, fixed = whole_weights(model)
    total = {name: torch.zeros_like(as_reals(weight)) for name, weight in weights.items()}
    applied = Applied(model)

    def project(weights: dict[str, Tensor], inputs: Inputs, score: Tensor) -> Tensor:
        row = map_inputs(lambda value: value[None], inputs)
        output: Tensor = applied(weights | fixed, row)
        return (output.reshape(-1) * score).sum()

    per_row = gradients_of_rows(project)
    was_training = model.training
    model.eval()
    try:
        with unsharded(model):
            for part in batch.split(rows_at_once(weights) if chunk is None else chunk):
                with torch.no_grad():
                    output: Tensor = applied(weights | fixed, part.inputs)
                    scores = objective.scores(output, generator)
                for score in scores:
                    for name, gradient in per_row(weights, part.inputs, score).items():
                        total[name] += as_reals(gradient).square().sum(0)
    finally:
        model.train(was_training)
    return {name: value / max(1, len(batch)) for name, value in total.items()}


def gradients_of_rows(function: Callable[..., Tensor]) -> Callable[..., dict[str, Tensor]]:
    """Return a function that computes the gradient of function(weights, *row) by the weights for each row, (B, ...)
    each.

    All rows are computed at once by vmap. vmap fails for models with control flow that depends on values (such as a
    transformer that checks for padding), embeddings with sparse gradients, and recurrent layers; their rows are
    computed one by one.

    Example:
        >>> gradients = gradients_of_rows(lambda weights, x: weights["w"] * x if x > 0 else weights["w"] * 0)
        >>> gradients({"w": torch.tensor(1.0)}, torch.tensor([3.0, -4.0]))
        {'w': tensor([3., 0.])}
    """
    at_once = vmap(grad(lambda weights, row: function(weights, *row)), in_dims=(None, 0), randomness="different")
    mapped = True

    def one(weights: Mapping[str, Tensor], row: Any) -> dict[str, Tensor]:
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        with torch.enable_grad():
            found = torch.autograd.grad(function(leaves, *row), list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, map(as_dense, found), strict=True))

    def of_rows(weights: Mapping[str, Tensor], *rows: Any) -> dict[str, Tensor]:
        nonlocal mapped
        if mapped:
            try:
                found: dict[str, Tensor] = at_once(weights, rows)
                return found
            except RuntimeError:  # the messages vary by layer; a genuine fault fails again below
                mapped = False
        leaves, layout = tree_flatten(rows)
        each = [
            one(weights, tree_unflatten([leaf[place] for leaf in leaves], layout)) for place in range(len(leaves[0]))
        ]
        return {name: torch.stack([found[name] for found in each]) for name in weights}

    return of_rows


def rows_at_once(weights: Mapping[str, Tensor]) -> int:
    """Return how many rows' gradients to hold at once: many for small models, few for large ones.

    Example:
        >>> rows_at_once({"w": torch.zeros(10, 10)}), rows_at_once({"w": torch.zeros(1000, 1000)})
        (64, 6)
    """
    return min(64, max(1, GRADIENT_FLOATS // sum(weight.numel() for weight in weights.values())))
