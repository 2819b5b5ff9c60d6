"""Streaming linear discriminant analysis."""

from __future__ import annotations

from torch import Tensor

from incr_core.batch import Batch
from incr_core.errors import StrategyError
from incr_core.models import Activations
from incr_core.models.adapt import StreamingLDA
from incr_core.strategies._arguments import require_classes
from incr_core.strategies._base import Context, Strategy
from incr_core.strategies._traits import Traits

__all__ = ["SLDA"]


class SLDA(Strategy):
    """Feed the activations of every new row to the model's `StreamingLDA` head, which classifies by them.

        counts_y += 1        sums_y += f(x)        second += f(x) f(x)^T

    f are the penultimate activations, computed in eval mode by a separate forward. The sums are part of the model and
    add up exactly between participants. A row learned in several passes counts once per pass, and row weights count as
    weights.

    The model must come from `incr_core.models.adapt.lda`; shrinkage = 1 there is the nearest class mean.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from incr_core.models.adapt import lda
        >>> from incr_core.learner import Learner
        >>> from incr_core.objectives import Multiclass
        >>> model = lda(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)))
        >>> learner = Learner(model, Multiclass(2), torch.optim.SGD, [SLDA()])
        >>> _ = learner.learn(Batch(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1])))
        >>> learner.predict(torch.tensor([[0.0, 2.0]])).argmax().item()
        0

    Reference:
        Hayes & Kanan 2020, "Lifelong machine learning with deep streaming linear discriminant analysis".
    """

    traits = Traits(phases={"after_step": "measure"})  # activations at the weights after the step

    def attach(self, ctx: Context) -> None:
        """Find the head."""
        require_classes("slda", ctx.objective, "use a plain model for it")
        self._activations = Activations(ctx.model, "slda")
        head = self._activations.head
        if not isinstance(head, StreamingLDA):
            raise StrategyError(
                f"slda: expected a model whose last layer is StreamingLDA, got {type(head).__name__}; "
                'make it with incr_core.models.adapt.lda, or [[model.adapt]] name = "lda"'
            )
        self._head = (head,)  # in a tuple, so that the model's head is not part of this strategy's state

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """Add the activations of the new rows."""
        training = ctx.model.training
        ctx.model.eval()
        with self._activations.read():
            ctx.model(batch.inputs)
        ctx.model.train(training)
        self._head[0].add(self._activations.last, batch.targets, batch.weights)
