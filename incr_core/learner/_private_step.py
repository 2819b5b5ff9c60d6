"""DP-SGD: clipped gradients of single rows, with noise on their sum.

    g = (sum_i min(1, clip / |g_i|) g_i  +  N(0, (noise clip)^2)) / B

g_i is the gradient of row i's loss, times its weight, and the step has B rows.

The rows of a step are not sampled at random: an increment is shuffled and divided into batches. No amplification by
sampling is claimed, and none is needed: each row is in one batch of a pass, so one pass over any rows is one step of
the Gaussian mechanism for each of them. The order and the number of rows reveal nothing about their contents.

Reference: Abadi et al. 2016, arXiv:1607.00133, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from incr_core.batch import Batch, Inputs, map_inputs
from incr_core.errors import ArgumentError
from incr_core.learner._optimizers import sparse_weights
from incr_core.models.adapt import ActivationRange
from incr_core.privacy import SecretNoise
from incr_core.strategies import Context, Strategy

if TYPE_CHECKING:
    from incr_core.learner._learner import Learner

__all__ = ["PrivateGradient", "why_not_private"]

NUMBERS = 1 << 24
"""Maximum number of elements in the row gradients held at once."""


class PrivateGradient:
    """Computes the noisy gradient of a step.

    Args:
        context: The learner's context.
        clip: Maximum norm of a row's gradient.
        noise: Standard deviation of the noise, relative to the clip.

    Attributes:
        source: Source of the noise; a new one is set each time that rows are learned.
    """

    def __init__(self, context: Context, clip: float, noise: float) -> None:
        self.context, self.clip, self.noise = context, clip, noise
        self.source: SecretNoise | None = None
        numbers = sum(weight.numel() for weight in context.parameters)
        self._at_once = max(1, NUMBERS // max(1, numbers))

    def backward(self, batches: Sequence[Batch]) -> float:
        """Set the noisy gradient of the rows of these batches; return the sum of their losses.

        Raises:
            ArgumentError: vmap does not support the model.
        """
        assert self.source is not None, "the privacy budget is charged before learning"
        context, losses = self.context, 0.0
        sums = [torch.zeros_like(weight) for weight in context.parameters]
        try:
            for batch in batches:
                losses += self._add(batch, sums)
        except RuntimeError as error:  # a user's model may do anything inside vmap
            raise ArgumentError(
                "privacy: expected a model that torch.func.vmap takes, for the gradient of each row, got: "
                f"{str(error).strip().splitlines()[0][:200]}; change the model, or hide the client as a whole"
            ) from error
        noise = self.source.like(dict(zip(context.names, sums, strict=True)))
        rows = sum(map(len, batches))
        for name, weight, total in zip(context.names, context.parameters, sums, strict=True):
            drawn = (noise[name] * (self.noise * self.clip)).to(total)
            weight.grad = (total + drawn) / rows
        return losses

    def _add(self, batch: Batch, sums: Sequence[Tensor]) -> float:
        """Add the clipped gradients of a batch's rows; return the sum of their losses."""
        model, objective = self.context.model, self.context.objective

        def loss(own: dict[str, Tensor], inputs: Inputs, target: Tensor, weight: Tensor | None) -> Tensor:
            row = map_inputs(lambda value: value.unsqueeze(0), inputs)
            found: Tensor = objective(functional_call(model, own, (row,)), target.unsqueeze(0))
            return found if weight is None else found * weight

        own = {name: weight.detach() for name, weight in zip(self.context.names, self.context.parameters, strict=True)}
        weighted = None if batch.weights is None else 0
        each = vmap(
            grad_and_value(loss), in_dims=(None, 0, 0, weighted), randomness="different", chunk_size=self._at_once
        )
        gradients, losses = each(own, batch.inputs, batch.targets, batch.weights)
        parts = [gradients[name] for name in self.context.names]
        norms = torch.stack([part.flatten(1).norm(dim=1) for part in parts]).norm(dim=0)
        factors = (self.clip / norms.clamp(min=self.clip)).nan_to_num(0.0)
        for total, part in zip(sums, parts, strict=True):
            finite = part.flatten(1).nan_to_num(0.0, 0.0, 0.0)  # the factor of a non-finite row is 0
            total += (factors @ finite).view_as(total)
        return float(losses.sum())


def why_not_private(learner: Learner) -> str:
    """Return why the rows of a learner cannot be hidden individually; empty if they can.

    Example:
        >>> from torch import nn
        >>> from incr_core.learner import Learner
        >>> from incr_core.objectives import Regression
        >>> model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
        >>> why_not_private(Learner(model, Regression(), torch.optim.SGD))
        'the model looks at several rows together (BatchNorm); use LayerNorm or GroupNorm'
    """
    if learner.steps.smallest > 1:
        return "the model looks at several rows together (BatchNorm); use LayerNorm or GroupNorm"
    if not learner.objective.rowwise:
        return f"learner.objective: {type(learner.objective).__name__} looks at several rows together; take another"
    if learner.shard[1] > 1 or learner.precision.name != "float32":
        return f"learner.precision: {learner.precision.name}; only float32 is supported"
    if sparse_weights(learner.model):
        return "the model has sparse gradients; make its embeddings dense"
    if any(isinstance(part, ActivationRange) for part in learner.model.modules()):
        return "the model keeps ranges of activations without noise (model.adapt qat); leave it out"
    if any(weight.is_complex() for weight in learner.context.parameters):
        return "the model has complex weights; take real ones"
    for strategy in learner.strategies:
        assert isinstance(strategy, Strategy)
        if not (strategy.traits.stacks or strategy.off):
            name = type(strategy).__name__
            return f"strategy {name} keeps rows, or values computed from them without noise; leave it out"
    return ""
