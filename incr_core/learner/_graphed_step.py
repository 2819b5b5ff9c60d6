"""Optimiser steps recorded as CUDA graphs, which launch all kernels of a step in one call.

A step of a small model consists of about forty kernels of a few microseconds each, and Python takes longer to launch
them than the GPU to run them. A graph contains the kernels of one step for batches of one shape; rows are copied to its
input buffers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from incr_core.batch import Batch, map_inputs
from incr_core.learner._optimizer_step import Descent
from incr_core.learner._step import Step, shares_of
from incr_core.numerics import Precision, failed_capture_ended
from incr_core.strategies import Hooks

__all__ = ["GraphedStep", "warn_eager", "why_not_graphed"]

BEFORE = 3
"""Steps of a shape that run eagerly before recording, because first steps allocate tensors."""

SHAPES = 8
"""Maximum number of recorded shapes; each keeps the memory of a step."""

log = logging.getLogger("incr")


def why_not_graphed(descent: Descent, hooks: Hooks, precision: Precision, *, shards: int, sparse: bool) -> str:
    """Return why the steps of a learner cannot be recorded; empty if nothing prevents it.

    The graph contains everything between the forward and the optimiser's step, which must be the same each time.
    """
    optimizer = descent.optimizer
    fused = all(group.get("fused") for group in optimizer.param_groups)
    if shards > 1:
        return "the model is sharded"
    if precision.scale is not None:
        return 'learner.precision: "float16" checks each gradient before a step'
    if hooks.weigh or hooks.loss or hooks.after_backward:
        return "a strategy weighs rows, adds to the loss or edits gradients"
    if descent.schedule is not None and descent.schedule.each == "step":
        return "learner.schedule changes the rate at each step"
    if sparse or not (fused or type(optimizer) is torch.optim.SGD):
        return f"learner.optimizer: {type(optimizer).__name__} is not fused here"
    return ""


@cache  # once, for any number of clients in a process
def warn_eager(why: str) -> None:
    """Log why steps that should be recorded are not."""
    log.warning("learner.graphs: steps cannot be recorded, and are taken kernel by kernel: %s", why)


@dataclass(slots=True)
class _Recording:
    """A recorded step for batches of one shape.

    Attributes:
        graph: The CUDA graph.
        batches: Its input buffers.
        losses: Its output buffers for the losses.
        outputs: Its output buffers for the model's outputs.
    """

    graph: Any
    batches: list[Batch]
    losses: list[Tensor]
    outputs: list[Tensor]


class GraphedStep:
    """Takes the steps of a `Step` as recordings where possible, and others eagerly, with the same bits.

    On a CPU nothing is recorded.

    Args:
        step: The step; `why_not_graphed` must be empty for it.

    Example:
        >>> from torch import nn
        >>> from incr_core.learner._learner import Learner
        >>> from incr_core.objectives import Binary
        >>> learner = Learner(nn.Linear(2, 1), Binary(), torch.optim.SGD, batch_size=2, graphs=True)
        >>> learner.learn(Batch(torch.randn(5, 2), torch.ones(5))).num_rows
        5
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._records = step.context.device.type == "cuda"
        self._taken: dict[Any, int] = {}
        self._recordings: dict[Any, _Recording] = {}
        self._made_for: Any = None

    @property
    def recorded(self) -> int:
        """Number of recorded steps, each for a different shape."""
        return len(self._recordings)

    def begin(self) -> None:
        """Discard recordings that are out of date, such as after tensors were replaced by loading."""
        if self._recordings and self._fingerprint() != self._made_for:
            self._recordings, self._taken = {}, {}

    def take(self, batches: Sequence[Batch]) -> int:
        """Take one optimiser step over the new rows of `batches`; return their number."""
        step, context, mixed = self._step, self._step.context, []
        for batch in batches:
            context.new = one = batch
            for augment in step.hooks.augment:
                one = augment(context, one)
            mixed.append(one)
        context.new = None
        losses, outputs = self._learned(mixed, shares_of(batches))
        for loss, batch in zip(losses, batches, strict=True):
            step.log({"loss": loss}, len(batch))
        if not step.after_step:
            return step.taken(batches, ())
        # Copied, because the next step overwrites the output buffers.
        return step.taken(
            batches, [output[: len(batch)].clone() for output, batch in zip(outputs, batches, strict=True)]
        )

    def _learned(self, batches: list[Batch], shares: Sequence[float | Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Take a step, and return the losses and outputs of its batches."""
        if not self._records or any(isinstance(share, Tensor) for share in shares):
            return self._descend(batches, shares)
        shape = tuple(shares), tuple((value.shape, value.dtype) for batch in batches for value in _read(batch))
        found = self._recordings.get(shape)
        if found is None:
            self._taken[shape] = taken = self._taken.get(shape, 0) + 1
            if taken > BEFORE and len(self._recordings) < SHAPES:
                found = self._recorded(batches, shares)
            if found is None:
                return self._descend(batches, shares)
            self._recordings[shape] = found
        for held, batch in zip(found.batches, batches, strict=True):
            for place, value in zip(_read(held), _read(batch), strict=True):
                place.copy_(value)
        found.graph.replay()
        return found.losses, found.outputs

    def _recorded(self, batches: list[Batch], shares: Sequence[float | Tensor]) -> _Recording | None:
        """Record a step for batches like these, without taking it. Return None, and stop recording, if it cannot be
        recorded.
        """
        held = [
            Batch(
                map_inputs(torch.clone, one.inputs),
                one.targets.clone(),
                None if one.weights is None else one.weights.clone(),
            )
            for one in batches
        ]
        if not self._recordings:
            self._made_for = self._fingerprint()
        graph, pool, device = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), self._step.context.device
        try:
            with (
                _capturable(self._step.descent.optimizer),
                failed_capture_ended(device, pool),
                torch.cuda.graph(graph, pool, capture_error_mode="thread_local"),  # reader threads continue
            ):
                losses, outputs = self._descend(held, shares)
        except RuntimeError as error:  # the model does something that a graph cannot contain
            self._step.descent.let_go()
            self._records, self._recordings = False, {}
            warn_eager((str(error).splitlines() or [type(error).__name__])[0])
            return None
        return _Recording(graph, held, losses, outputs)

    def _descend(self, batches: Sequence[Batch], shares: Sequence[float | Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Run forward, backward and the optimiser's step: the part that is recorded."""
        step, losses, outputs = self._step, [], []
        for batch, share in zip(batches, shares, strict=True):
            with step.precision.autocast():
                output = step.model(batch.inputs)
                loss = step.objective(output, batch.targets, batch.weights)
            step.descent.backward(loss if len(batches) == 1 else loss * share)
            losses.append(loss.detach())
            outputs.append(output.detach())
        step.descent.step()  # clips, too
        return losses, outputs

    def _fingerprint(self) -> Any:
        """Return the addresses of tensors and the optimiser's settings, on which recordings depend."""
        step, optimizer = self._step, self._step.descent.optimizer
        held = [*step.model.buffers(), *step.objective.buffers(), *step.context.parameters]
        held += [value for moments in optimizer.state.values() for value in moments.values() if torch.is_tensor(value)]
        settings = [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        return [value.data_ptr() for value in held], settings, step.descent.factor


@contextmanager
def _capturable(optimizer: Optimizer) -> Iterator[None]:
    """Allow an optimiser's step to be captured. A fused one keeps nothing on the host, but requires the flag."""
    asking = [group for group in optimizer.param_groups if "capturable" in group]
    before = [group["capturable"] for group in asking]
    for group in asking:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, was in zip(asking, before, strict=True):
            group["capturable"] = was


def _read(batch: Batch) -> list[Tensor]:
    """Return the tensors of a batch that a forward and a loss read."""
    inputs = list(batch.inputs.values()) if isinstance(batch.inputs, dict) else [batch.inputs]
    return [*inputs, batch.targets] if batch.weights is None else [*inputs, batch.targets, batch.weights]
