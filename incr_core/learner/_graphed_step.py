"""Optimiser steps recorded as CUDA graphs: all that a step launches on a GPU is then asked for in one call.

A step of a small model is some forty kernels of a few microseconds each, and Python takes longer to ask for them than
the GPU to run them. A graph holds those of one step of batches of one shape; rows are copied to where it reads them.
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
"""Steps of a shape that are taken one kernel at a time before they are recorded: a step makes things at first."""

SHAPES = 8
"""Shapes that are recorded: each keeps the memory of a step."""

log = logging.getLogger("incr")


def why_not_graphed(descent: Descent, hooks: Hooks, precision: Precision, *, shards: int, sparse: bool) -> str:
    """Why the steps of a learner cannot be recorded; empty where nothing that it is made of forbids it.

    What goes on between the forward and the optimiser's step is in the graph, and must be the same each time.
    """
    optimizer = descent.optimizer
    fused = all(group.get("fused") for group in optimizer.param_groups)
    if shards > 1:
        return "the model is sharded"
    if precision.scale is not None:
        return 'learner.precision: "float16" looks at each gradient before it steps'
    if hooks.weigh or hooks.loss or hooks.after_backward:
        return "a strategy weighs rows, adds to the loss or edits gradients"
    if descent.schedule is not None and descent.schedule.each == "step":
        return "learner.schedule changes the rate at each step"
    if sparse or not (fused or type(optimizer) is torch.optim.SGD):
        return f"learner.optimizer: {type(optimizer).__name__} is not fused here"
    return ""


@cache  # once, whatever the number of clients in a process
def warn_eager(why: str) -> None:
    """Tell why steps that should be recorded are not."""
    log.warning("learner.graphs: steps cannot be recorded, and are taken kernel by kernel: %s", why)


@dataclass(slots=True)
class _Recording:
    """A step of batches of one shape.

    graph: launches it. batches: where it reads its rows. losses, outputs: where it leaves what came of each.
    """

    graph: Any
    batches: list[Batch]
    losses: list[Tensor]
    outputs: list[Tensor]


class GraphedStep:
    """Take the steps of a `Step`, recorded where that can be; the others kernel by kernel, to the same bits.

    step: one of whose parts nothing forbids it (`why_not_graphed`).

    On a CPU nothing is recorded:

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
        """How many steps are recorded now, each of another shape."""
        return len(self._recordings)

    def begin(self) -> None:
        """Steps follow: let go of recordings of what is no more, such as tensors that were loaded anew since."""
        if self._recordings and self._fingerprint() != self._made_for:
            self._recordings, self._taken = {}, {}

    def take(self, batches: Sequence[Batch]) -> int:
        """One optimiser step over the new rows of `batches`; returns how many they are."""
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
        # Copied: the next step leaves its own in the same place.
        return step.taken(
            batches, [output[: len(batch)].clone() for output, batch in zip(outputs, batches, strict=True)]
        )

    def _learned(self, batches: list[Batch], shares: Sequence[float | Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The losses and outputs of batches, by which a step was taken."""
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
        """A step of batches like these, which is not taken; None, once and for all, where it cannot be recorded."""
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
                torch.cuda.graph(graph, pool, capture_error_mode="thread_local"),  # others, who read ahead, go on
            ):
                losses, outputs = self._descend(held, shares)
        except RuntimeError as error:  # whatever the model does that no graph can hold
            self._step.descent.let_go()
            self._records, self._recordings = False, {}
            warn_eager((str(error).splitlines() or [type(error).__name__])[0])
            return None
        return _Recording(graph, held, losses, outputs)

    def _descend(self, batches: Sequence[Batch], shares: Sequence[float | Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Forward, backward and the optimiser's step: all that is recorded."""
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
        """What must not change for a recording to hold: where tensors lie, and the settings of the optimiser."""
        step, optimizer = self._step, self._step.descent.optimizer
        held = [*step.model.buffers(), *step.objective.buffers(), *step.context.parameters]
        held += [value for moments in optimizer.state.values() for value in moments.values() if torch.is_tensor(value)]
        settings = [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        return [value.data_ptr() for value in held], settings, step.descent.factor


@contextmanager
def _capturable(optimizer: Optimizer) -> Iterator[None]:
    """Inside, let an optimiser's step be captured: one that is fused keeps nothing on the host, but asks to be told."""
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
    """What a forward and a loss read of a batch."""
    inputs = list(batch.inputs.values()) if isinstance(batch.inputs, dict) else [batch.inputs]
    return [*inputs, batch.targets] if batch.weights is None else [*inputs, batch.targets, batch.weights]
