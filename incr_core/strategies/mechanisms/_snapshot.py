"""Snapshot of a model's weights at an earlier time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from incr_core.batch import Inputs
from incr_core.models import merge_rules
from incr_core.models.adapt import NearestMean
from incr_core.numerics import as_reals, local
from incr_core.strategies._base import Context, PerWeight

__all__ = ["Snapshot"]


class Snapshot(nn.Module):
    """Weights and buffers that can replace those of the model during a forward.

    They are swapped in place, shard by shard, so a snapshot costs the memory of the weights and supports sharded
    models. Swapping in place invalidates an autograd graph that was built before: run a teacher before the student's
    forward, in `augment`.

    Example:
        >>> model = nn.Linear(1, 1, bias=False); _ = nn.init.ones_(model.weight)
        >>> ctx = Context(model, None, None, None, None, names=["weight"], parameters=[model.weight])
        >>> teacher = Snapshot(); teacher.allocate(ctx); teacher.capture(ctx)
        >>> _ = nn.init.zeros_(model.weight)
        >>> teacher(ctx, torch.ones(1, 1)), model.weight.item()
        (tensor([[1.]]), 0.0)
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights = PerWeight()
        self.statistics = nn.Module()
        self.captured = False
        self._heads: tuple[NearestMean, ...] = ()

    def allocate(self, ctx: Context) -> None:
        """Allocate a copy of the trainable weights and of the model's buffers."""
        self.weights.allocate(ctx)
        for name, buffer in ctx.model.named_buffers():
            self.statistics.register_buffer(name.replace(".", "/"), torch.zeros_like(local(buffer)))
        self._heads = tuple(part for part in ctx.model.modules() if isinstance(part, NearestMean))

    @torch.no_grad()
    def capture(self, ctx: Context) -> None:
        """Copy the model's current weights and buffers."""
        torch._foreach_copy_(self._held(), self._live(ctx))
        self.captured = True

    @torch.no_grad()
    def restore(self, ctx: Context) -> None:
        """Write these weights to the model permanently. Buffers that are sums over rows seen keep their values."""
        rules = merge_rules(ctx.model)
        summed = [rules[name] == "sum" for name, _ in ctx.model.named_buffers()]
        kept = [False] * len(ctx.parameters) + summed
        for live, held, stays in zip(self._live(ctx), self._held(), kept, strict=True):
            if not stays:
                live.copy_(held)

    def forward(self, ctx: Context, inputs: Inputs) -> Tensor:
        """Return the model's output with these weights, in eval mode and without gradients, (B, ...)."""
        with torch.no_grad(), self.swapped_in(ctx):
            output: Tensor = ctx.model(inputs)
        return output

    @contextmanager
    def swapped_in(self, ctx: Context) -> Iterator[None]:
        """Give the model these weights in eval mode. A `NearestMean` head still answers linearly."""
        live, held = self._live(ctx), self._held()
        kept = [tensor.clone() for tensor in live]
        training = ctx.model.training
        with torch.no_grad():
            torch._foreach_copy_(live, held)
        ctx.model.eval()
        for head in self._heads:
            head.train()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(live, kept)
            ctx.model.train(training)

    def get_extra_state(self) -> dict[str, bool]:
        """Return whether weights were captured."""
        return {"captured": self.captured}

    def set_extra_state(self, state: dict[str, bool]) -> None:
        """Restore it."""
        self.captured = state["captured"]

    def _live(self, ctx: Context) -> list[Tensor]:
        weights = [as_reals(local(weight.detach())) for weight in ctx.parameters]
        return weights + [local(buffer) for buffer in ctx.model.buffers()]

    def _held(self) -> list[Tensor]:
        return self.weights.tensors() + list(self.statistics.buffers())
