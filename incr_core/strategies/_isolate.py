"""Keep task-specific weights fixed while other tasks are learned."""

from __future__ import annotations

import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.errors import StrategyError
from incr_core.numerics import local
from incr_core.strategies._base import Context, Strategy
from incr_core.strategies._traits import Traits

__all__ = ["Isolate"]


class Isolate(Strategy):
    """Restrict each step to the heads of the tasks that its rows belong to.

        after the step:   W[t] <- W[t] before it, for every task t without a row

    A head without rows has a gradient of zero, but momentum and weight decay would still move it. The strategy has no
    state and needs no task boundaries. It applies to modules whose class attribute `per_task` names weights with the
    task as first dimension, as `incr_core.models.adapt.task_heads` makes them. Replayed rows do not count as rows of
    the step, so their heads stay fixed.

    Example:
        >>> from torch import nn
        >>> from incr_core.models.adapt import task_heads, with_task
        >>> from incr_core.learner import Learner
        >>> from incr_core.objectives import Multiclass
        >>> model = task_heads(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), tasks=2)
        >>> decay = lambda weights: torch.optim.SGD(weights, lr=0.1, weight_decay=0.5)
        >>> learner = Learner(model, Multiclass(2), decay, [Isolate()])
        >>> before = model[1].weight[1].clone()
        >>> rows = Batch(torch.ones(3, 2), torch.tensor([0, 1, 1]), task=torch.zeros(3, dtype=torch.int64))
        >>> _ = learner.learn(with_task(rows)); bool((model[1].weight[1] == before).all())
        True
    """

    traits = Traits(needs_tasks=True, phases={"after_step": "restrict"})

    def attach(self, ctx: Context) -> None:
        """Find the task-specific weights."""
        places = {id(weight): place for place, weight in enumerate(ctx.parameters)}
        self._places = [
            places[id(weight)]
            for module in ctx.model.modules()
            for weight in (getattr(module, name) for name in getattr(module, "per_task", ()))
            if id(weight) in places
        ]
        if not self._places:
            raise StrategyError(
                f"isolate: expected a model with task-specific weights, got {type(ctx.model).__name__} without any; "
                'make it with incr_core.models.adapt.task_heads, or [[model.adapt]] name = "task_heads"'
            )
        if any(hasattr(ctx.parameters[place], "to_local") for place in self._places):
            raise StrategyError("isolate: expected whole heads, got sharded ones; use one shard, or freeze old heads")
        self._before: list[Tensor] = []

    @torch.no_grad()
    def after_backward(self, ctx: Context) -> None:
        """Copy the weights before the step."""
        self._before = [local(ctx.parameters[place]).clone() for place in self._places]

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """Restore the weights of tasks without rows in this step."""
        if batch.task is None:
            raise StrategyError("isolate: expected batches with tasks, got none; name the column in features.task")
        for place, before in zip(self._places, self._before, strict=True):
            weight = local(ctx.parameters[place].detach())
            learned = torch.zeros(len(weight), dtype=torch.bool, device=weight.device).index_fill(0, batch.task, True)
            weight.copy_(torch.where(learned.reshape(-1, *[1] * (weight.ndim - 1)), weight, before))
