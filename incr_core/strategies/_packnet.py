"""PackNet: several tasks in one network without interference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from incr_core.batch import Batch
from incr_core.errors import StrategyError
from incr_core.numerics import local
from incr_core.strategies._arguments import at_least_one, fraction, not_negative
from incr_core.strategies._base import Context, PerWeight, Strategy
from incr_core.strategies._traits import Traits
from incr_core.strategies.mechanisms import Ownership

__all__ = ["PackNet"]


class PackNet(Strategy):
    """Assign the most important free weights to each task, freeze them, and learn the next task with the rest.

        while task t is learned:   g_j <- 0 and w_j <- k_j after the step, for weights of earlier tasks (o_j > 0)
        at its end:                of each tensor's free weights the share `keep` with the largest |w_j| is assigned to
            the
                                   task, o_j <- t + 1, and the rest set to 0; `retrain` passes over the task's weights;
                                   k <- w
        prediction for task t:     w_j for 0 < o_j <= t + 1, else 0; with the buffers (BatchNorm) as at its end

    Biases and scales (tensors of one dimension) belong to the first task. Weights are restored after each step, so
    momentum and weight decay do not move them either: the output of `as_task` for a finished task never changes, bit
    for bit.

    A task consists of `every` increments. Workers with the same weights prune identically; their retrained weights are
    averaged at once and published. Changes by a rounding exchange or by an outer step's momentum are undone at the
    start of the next increment.

    Args:
        keep: Share of the free weights that a task gets.
        tasks: Number of tasks. Later increments are learned without pruning in the weights of the last task. 1 turns
            the strategy off.
        retrain: Passes over the last increment's rows after pruning.
        every: Increments per task.
        batch_size: Rows per batch when retraining.

    Example:
        >>> PackNet(keep=0.5, tasks=3)
        PackNet(
          keep=0.5, tasks=3, retrain=1, every=1, batch_size=128, done=0, settled=0
          (ownership): Ownership(
            (owner): PerWeight()
            (kept): PerWeight()
          )
          (fresh): PerWeight()
          (statistics): Module()
        )

    Reference:
        Mallya & Lazebnik 2018, "PackNet", section 3.
    """

    traits = Traits(
        shared={"ownership.owner": "max", "fresh": "mean"},
        needs_boundaries=True,
        remakes=True,
        # Teachers and anchors are copies of the restored weights. Strategies that measure at the end see the pruned
        # network.
        phases={"begin": "remake", "after_backward": "restrict", "after_step": "restrict", "end": "remake"},
    )

    def __init__(
        self, keep: float = 0.5, tasks: int = 5, retrain: int = 1, every: int = 1, batch_size: int = 128
    ) -> None:
        super().__init__()
        self.keep = fraction("packnet.keep", keep)
        self.tasks = at_least_one("packnet.tasks", tasks)
        self.retrain = int(not_negative("packnet.retrain", retrain))
        self.every = at_least_one("packnet.every", every)
        self.batch_size = at_least_one("packnet.batch_size", batch_size)
        self.done = 0
        self.settled = 0
        self.ownership = Ownership()
        self.fresh = PerWeight()
        self.statistics = nn.Module()

    def attach(self, ctx: Context) -> None:
        """Allocate owners, kept weights, and buffers for every task but the last."""
        for name, weight in zip(ctx.names, ctx.parameters, strict=True):
            if weight.is_complex():
                raise StrategyError(
                    f"packnet: expected real weights, which can be assigned to tasks one by one, got {name} of "
                    f"{str(weight.dtype).removeprefix('torch.')}; keep it as pairs (torch.view_as_real), or freeze it"
                )
        _check_prunable(ctx.model)
        self.ownership.allocate(ctx)
        self.fresh.allocate(ctx)
        for name, value in ctx.model.named_buffers():
            room = local(value).new_zeros((self.tasks - 1, *local(value).shape))
            self.statistics.register_buffer(name.replace(".", "/"), room)

    def begin(self, ctx: Context) -> None:
        """Store the weights of the last task, and undo changes by the exchange or by the outer step."""
        self.done = self.ownership.owners()
        if self.done:
            # A participant without rows of a task receives its weights here, from the shared state and the anchor.
            self.ownership.settle(ctx, self.fresh.tensors(), self.settled, self.done)
            self.settled = self.done
            self.ownership.put_back(ctx, learning=0)

    def after_backward(self, ctx: Context) -> None:
        """Zero the gradients of earlier tasks' weights, so that clipping ignores them."""
        if self.done:
            self.ownership.mask_gradients(ctx, learning=0)

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """Undo the effect of momentum and weight decay on weights of earlier tasks."""
        if self.done:
            self.ownership.put_back(ctx, learning=0)

    def end(self, ctx: Context, labelled: Batch) -> None:
        """Prune, retrain, and keep the weights of the task."""
        if self.done >= self.tasks - 1 or len(labelled) == 0 or (ctx.increment + 1) % self.every:
            return
        self.done += 1
        self.ownership.claim(ctx, self.done, self.keep)
        self.ownership.keep(ctx)
        for _ in range(self.retrain):
            self._retrain(ctx, labelled)
        self.ownership.keep(ctx)
        for weight, owner, fresh in zip(
            ctx.parameters, self.ownership.owner.tensors(), self.fresh.tensors(), strict=True
        ):
            fresh.copy_(torch.where(owner == self.done, local(weight.detach()), 0.0))
        for room, value in zip(self.statistics.buffers(), ctx.model.buffers(), strict=True):
            room[self.done - 1].copy_(local(value))

    def _retrain(self, ctx: Context, labelled: Batch) -> None:
        training = ctx.model.training
        ctx.model.train()
        order = torch.randperm(len(labelled), generator=ctx.generator, device=ctx.generator.device)
        for part in labelled.take(order).split(self.batch_size):
            ctx.objective(ctx.model(part.inputs), part.targets, part.weights).backward()
            self.ownership.mask_gradients(ctx, learning=self.done)
            ctx.optimizer.step()
            ctx.optimizer.zero_grad()
            self.ownership.put_back(ctx, learning=self.done)
        ctx.model.train(training)

    @contextmanager
    def as_task(self, ctx: Context, task: int) -> Iterator[None]:
        """Give the model the weights of a finished task, counted from 0, in eval mode.

        For the current task and later ones the model stays as it is.
        """
        live = [local(weight.detach()) for weight in ctx.parameters] + [local(value) for value in ctx.model.buffers()]
        before, training = [tensor.clone() for tensor in live], ctx.model.training
        if task < self.done:
            with torch.no_grad():
                self.ownership.hide(ctx, above=task + 1)
                for value, room in zip(ctx.model.buffers(), self.statistics.buffers(), strict=True):
                    local(value).copy_(room[task])
        ctx.model.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(live, before)
            ctx.model.train(training)

    def get_extra_state(self) -> dict[str, int]:
        """Return how many tasks are finished, and how many of them are stored."""
        return {"done": self.done, "settled": self.settled}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore both counts."""
        self.done, self.settled = state["done"], state["settled"]


def _check_prunable(model: nn.Module) -> None:
    """Raise a StrategyError for a weight that is divided by its own norm: pruning it to 0 would give NaN."""
    for name, part in model.named_modules():
        named = {key for key, _ in part.named_parameters(recurse=False)}
        for weight in sorted(key.removesuffix("_v") for key in named if key.endswith("_v")):
            if f"{weight}_g" in named:
                raise _not_prunable(f"{name}.{weight}".lstrip("."))
        if is_parametrized(part):
            raise _not_prunable(f"{name}.{next(iter(part.parametrizations))}".lstrip("."))


def _not_prunable(weight: str) -> StrategyError:
    return StrategyError(
        f"packnet: expected weights that may become 0, got {weight}, which is computed from others, such as by "
        "weight_norm, and becomes NaN when its norm is 0; remove the parametrization "
        "(torch.nn.utils.parametrize.remove_parametrizations)"
    )
