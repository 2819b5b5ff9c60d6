"""SCAFFOLD: control variates of the participants."""

from __future__ import annotations

import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.strategies._base import Context, PerWeight, Strategy
from incr_core.strategies._traits import Traits

__all__ = ["Scaffold"]


class Scaffold(Strategy):
    """Correct each participant's gradients by their usual difference from the mean of all participants.

    Without the correction, participants with different data each drift towards their own optimum.

        every step:       g <- g - c_i + c
        after its rows:   c_i <- mean of the steps' g before the correction
        when merged:      c <- sum_i r_i c_i / sum_i r_i

    For plain SGD the mean of the gradients equals the paper's c_i - c + (x - y_i) / (K lr), for K steps from x to y_i.
    For other optimisers it is the mean gradient that this expression approximates. r_i are the rows that participant i
    learned last, because weights are averaged by rows; with equal rows c is the paper's. Workers that have not learned
    yet are left out instead of counting as zero. Participants that do not take part in a round keep their c_i and their
    share of c.

    The c_i stay with their participants; only their weighted sum is merged, once per increment for any number of
    rounds.

    Example:
        >>> Scaffold().traits.shared
        {'total': 'sum', 'rows': 'sum'}

    Reference:
        Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1, option II.
    """

    traits = Traits(shared={"total": "sum", "rows": "sum"}, phases={"after_backward": "record"})

    rows: Tensor
    mine: Tensor
    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.own = PerWeight()  # c_i
        self.total = PerWeight()  # sum_i r_i c_i
        self.gradients = PerWeight()  # sum over the steps of the increment
        self.correction = PerWeight()  # c - c_i
        self.register_buffer("rows", torch.zeros((), dtype=torch.float64))  # sum_i r_i
        self.register_buffer("mine", torch.zeros((), dtype=torch.float64))  # r_i
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def attach(self, ctx: Context) -> None:
        """Allocate all tensors."""
        for tensors in (self.own, self.total, self.gradients, self.correction):
            tensors.allocate(ctx)

    @torch.no_grad()
    def begin(self, ctx: Context) -> None:
        """Compute the correction from the last merged state."""
        self.steps.zero_()
        torch._foreach_zero_(self.gradients.tensors())
        corrections = self.correction.tensors()
        torch._foreach_zero_(corrections)
        if self.rows > 0:
            torch._foreach_add_(corrections, self.total.tensors(), alpha=1.0 / float(self.rows))
            torch._foreach_sub_(corrections, self.own.tensors())

    def after_backward(self, ctx: Context) -> None:
        """Add the gradient to the sum, and correct it."""
        _, gradients, index = ctx.weights_and_gradients()
        self.steps += 1
        torch._foreach_add_(self.gradients.tensors(index), gradients)
        torch._foreach_add_(gradients, self.correction.tensors(index))

    @torch.no_grad()
    def end(self, ctx: Context, labelled: Batch) -> None:
        """Replace the participant's contribution to the sum."""
        if self.steps == 0:
            return
        own, total = self.own.tensors(), self.total.tensors()
        torch._foreach_sub_(total, torch._foreach_mul(own, float(self.mine)))
        torch._foreach_copy_(own, torch._foreach_div(self.gradients.tensors(), float(self.steps)))
        torch._foreach_add_(total, own, alpha=float(len(labelled)))
        self.rows += len(labelled) - self.mine
        self.mine.fill_(len(labelled))
        self.steps.zero_()
