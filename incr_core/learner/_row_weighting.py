"""Loss of a batch whose rows strategies weigh or select."""

from __future__ import annotations

from functools import reduce
from operator import mul

import torch
from torch import Tensor

from incr_core.batch import Batch, share_of
from incr_core.numerics import Precision
from incr_core.strategies import Context, Hooks

__all__ = ["RowWeighting"]

FEW, ENOUGH = 1 / 3, 64
"""Rows are selected by a separate forward if at most this share of a batch is learned, and the batch has that many
rows. The forward costs more than a larger share saves, and rows of a small batch contribute little to the time of a
step.
"""


class RowWeighting:
    """Loss of a batch with the factors f_i that strategies give rows (`Strategy.weigh`) beside their weights w_i.

        loss = sum_i f_i w_i l_i / sum_i w_i

    If strategies learn from few rows of large batches (`Strategy.keeps`), all rows first run without gradients, for the
    strategies to choose, and the chosen rows run again, with new Dropout masks. If rows depend on each other (in the
    objective, or by BatchNorm), or a strategy adds terms to the loss, all rows run once and are weighted.

    Args:
        context: The learner's context.
        hooks: The strategies' hooks, some of which weigh rows.
        precision: The learner's precision.
        rowwise: Whether the output of a row is independent of other rows.

    Example:
        >>> from torch import nn
        >>> from incr_core.learner._learner import Learner
        >>> from incr_core.objectives import Multiclass
        >>> from incr_core.strategies import Selective
        >>> learner = Learner(nn.Linear(1, 2), Multiclass(2), torch.optim.SGD, [Selective(beta=2.0)])
        >>> weighting = RowWeighting(learner.context, learner.hooks, learner.precision, rowwise=True)
        >>> loss, output = weighting.loss(Batch(torch.ones(100, 1), torch.zeros(100, dtype=torch.int64)))
        >>> loss.requires_grad, output.requires_grad, output.shape
        (True, False, torch.Size([100, 2]))
    """

    def __init__(self, context: Context, hooks: Hooks, precision: Precision, *, rowwise: bool) -> None:
        self.context = context
        self.hooks = hooks
        self.precision = precision
        self._beforehand = hooks.keeps <= FEW and not hooks.loss and rowwise and context.objective.rowwise

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss, and the model's output for all rows."""
        model, objective = self.context.model, self.context.objective
        if self._beforehand and len(batch) >= ENOUGH:
            return self._loss_of_few(batch)
        with self.precision.autocast():
            output = model(batch.inputs)
            weights, kept = self._weights(batch, output)
            loss: Tensor = objective(output, batch.targets, weights)
            return loss if kept is None else loss * kept, output

    def _loss_of_few(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss computed from the rows with a weight only; the output has no gradients."""
        model, objective = self.context.model, self.context.objective
        # A separate autocast: a common one would reuse cached weight casts, which have no gradients.
        with torch.no_grad(), self.precision.autocast():
            output = model(batch.inputs)
            weights, kept = self._weights(batch, output)
        if kept is not None and weights is not None:
            places = weights.nonzero().flatten()
            # If no row has a weight, one row without weight is used: some models do not support empty batches.
            places = places if len(places) else torch.zeros(1, dtype=torch.int64, device=weights.device)
            batch, weights = batch.take(places), weights.index_select(0, places)
        with self.precision.autocast():
            loss: Tensor = objective(model(batch.inputs), batch.targets, weights)
            return loss if kept is None else loss * kept, output

    @torch.no_grad()
    def _weights(self, batch: Batch, output: Tensor) -> tuple[Tensor | None, float | Tensor | None]:
        """Return f_i w_i, and the factor sum_i f_i w_i / sum_i w_i on their weighted mean.

        Without factors, the weights are returned alone.
        """
        found = [hook(self.context, batch, output.detach()) for hook in self.hooks.weigh]
        factors = [factor for factor in found if factor is not None]
        if not factors:
            return batch.weights, None
        before = torch.ones_like(factors[0]) if batch.weights is None else batch.weights
        weights = reduce(mul, factors, before)
        return weights, share_of(weights.sum(), before.sum())
