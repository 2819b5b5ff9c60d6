"""The loss of a batch whose rows strategies weigh, or of which they leave few."""

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
"""Rows are chosen by a forward of their own where at most this share of a batch is learned from, and the batch has so
many rows: that forward costs more than a larger share saves, and in a small batch rows cost little of a step."""


class RowWeighting:
    """The loss of a batch with the factors f_i that strategies give rows (`Strategy.weigh`) beside their weights w_i.

        loss = sum_i f_i w_i l_i / sum_i w_i

    Where strategies learn from few rows of large batches (`Strategy.keeps`), all are run without gradients for them to
    choose, and those chosen once more, with a Dropout of their own. Where rows depend on one another (in the objective,
    or by BatchNorm), or a strategy adds terms to the loss, all are run once, and weighed.

    context, precision: those of the learner. hooks: its strategies', some of which weigh rows.
    rowwise: whether the output of a row depends on no other.

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
        """The loss, and the model's output for all rows."""
        model, objective = self.context.model, self.context.objective
        if self._beforehand and len(batch) >= ENOUGH:
            return self._loss_of_few(batch)
        with self.precision.autocast():
            output = model(batch.inputs)
            weights, kept = self._weights(batch, output)
            loss: Tensor = objective(output, batch.targets, weights)
            return loss if kept is None else loss * kept, output

    def _loss_of_few(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Through the rows alone that the loss counts; the output without gradients."""
        model, objective = self.context.model, self.context.objective
        # An autocast of its own: within one, weights that were cast without gradients would be used again.
        with torch.no_grad(), self.precision.autocast():
            output = model(batch.inputs)
            weights, kept = self._weights(batch, output)
        if kept is not None and weights is not None:
            places = weights.nonzero().flatten()
            # Where no row is learned from, one that counts nothing: not every model takes a batch of none.
            places = places if len(places) else torch.zeros(1, dtype=torch.int64, device=weights.device)
            batch, weights = batch.take(places), weights.index_select(0, places)
        with self.precision.autocast():
            loss: Tensor = objective(model(batch.inputs), batch.targets, weights)
            return loss if kept is None else loss * kept, output

    @torch.no_grad()
    def _weights(self, batch: Batch, output: Tensor) -> tuple[Tensor | None, float | Tensor | None]:
        """f_i w_i, and sum_i f_i w_i / sum_i w_i, by which their weighted mean is to be multiplied; without a factor,
        the weights alone.
        """
        found = [hook(self.context, batch, output.detach()) for hook in self.hooks.weigh]
        factors = [factor for factor in found if factor is not None]
        if not factors:
            return batch.weights, None
        before = torch.ones_like(factors[0]) if batch.weights is None else batch.weights
        weights = reduce(mul, factors, before)
        return weights, share_of(weights.sum(), before.sum())
