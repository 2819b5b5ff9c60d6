"""Memory aware synapses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from incr_core.batch import Batch, Inputs
from incr_core.models import one_way
from incr_core.numerics import Applied, as_reals, like, local, unsharded, whole_weights
from incr_core.strategies._arguments import at_least_one, fraction, not_negative
from incr_core.strategies._base import Context, PerWeight, Strategy
from incr_core.strategies._traits import Traits
from incr_core.strategies.mechanisms import QuadraticPenalty, gradients_of_rows, rows_at_once

__all__ = ["MAS", "sensitivity"]


class MAS(Strategy):
    """Penalise changes of weights to which the model's outputs are sensitive.

        loss += strength * sum_j F_j (w_j - a_j)^2        gradient: see `QuadraticPenalty`, k_j = 2 * strength * F_j
        at the end of an increment: F <- decay * F + mean_x | d |output(x)|^2 / d w |,  a <- w

    It needs no labels: rows with late or missing labels contribute to F as well.

    Args:
        strength: Weight of the penalty. 0 turns the strategy off.
        decay: Factor on the past F at each consolidation, in [0, 1].
        samples: Number of rows of an increment for estimating F.

    Example:
        >>> MAS(strength=2.0).extra_repr()
        'strength=2.0, decay=1.0, samples=1024'

    Reference:
        Aljundi et al. 2018, "Memory aware synapses", equations 2 to 4.
    """

    traits = Traits(shared={"importance": "mean", "anchor": "mean"}, phases={"end": "measure"})

    def __init__(self, strength: float = 0.1, decay: float = 1.0, samples: int = 1024) -> None:
        super().__init__()
        self.strength = not_negative("mas.strength", strength)
        self.decay = fraction("mas.decay", decay)
        self.samples = at_least_one("mas.samples", samples)
        self.importance = PerWeight()
        self.anchor = PerWeight()
        self._penalty = QuadraticPenalty()

    def attach(self, ctx: Context) -> None:
        """Allocate F and a."""
        one_way(ctx.model, "mas")
        self.importance.allocate(ctx)
        self.anchor.allocate(ctx)

    def after_backward(self, ctx: Context) -> None:
        """Add the penalty's gradient, without a graph."""
        if self.strength == 0:
            return
        _, _, index = ctx.weights_and_gradients()
        self._penalty(ctx, self.anchor.tensors(index), self.importance.tensors(index), 2 * self.strength)

    @torch.no_grad()
    def end(self, ctx: Context, labelled: Batch) -> None:
        """Estimate the sensitivity of the outputs, and move the anchor."""
        if self.strength == 0 or len(labelled) == 0:
            return
        picked = torch.randperm(len(labelled), generator=ctx.generator, device=ctx.generator.device)[: self.samples]
        measured = sensitivity(ctx.model, labelled.take(picked))
        for old, name, weight in zip(self.importance.tensors(), ctx.names, ctx.parameters, strict=True):
            old.mul_(self.decay).add_(like(measured[name], weight))
        torch._foreach_copy_(self.anchor.tensors(), [as_reals(local(weight)) for weight in ctx.parameters])


def sensitivity(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return mean_x | d |output(x)|^2 / d w_j | for every trainable weight, by name. The model runs in eval mode.

    Example:
        >>> model = nn.Linear(1, 1, bias=False); _ = nn.init.ones_(model.weight)
        >>> sensitivity(model, Batch(torch.tensor([[3.0]]), torch.ones(1)))["weight"]
        tensor([[18.]])
    """
    weights, fixed = whole_weights(model)
    applied = Applied(model)

    def squared(weights: dict[str, Tensor], inputs: Inputs) -> Tensor:
        row = {name: value[None] for name, value in inputs.items()} if isinstance(inputs, dict) else inputs[None]
        output: Tensor = applied(weights | fixed, row)
        return output.square().sum()

    per_row = gradients_of_rows(squared)
    total = {name: torch.zeros_like(as_reals(weight)) for name, weight in weights.items()}
    training = model.training
    model.eval()
    try:
        with unsharded(model):
            for part in batch.split(rows_at_once(weights)):
                for name, gradient in per_row(weights, part.inputs).items():
                    total[name] += as_reals(gradient).abs().sum(0)
    finally:
        model.train(training)
    return {name: value / max(1, len(batch)) for name, value in total.items()}
