"""Stacked learning: many small learners as one batch, with one forward and one backward for all.

    W (K, ...) = the anchor, K times
    at step t:    l_k = loss(model(W_k, x_kt), y_kt)    W -= optimiser(d sum_k l_k / dW)

The loss of a learner depends only on its own weights, so the gradient of the sum contains each learner's gradient.
Invariant: learners are sorted by descending number of steps, so that those with remaining steps are the first A of K.
Smaller batches are padded with rows of weight 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from incr_core.batch import Batch, Inputs, cat, map_inputs
from incr_core.learner._learner import Learner
from incr_core.learner._optimizers import sparse_weights
from incr_core.learner._stacked_optimizer import StackedOptimizer, why_not_stacked
from incr_core.numerics import writes
from incr_core.strategies import Strategy
from incr_core.update import Update, Weights

__all__ = ["descend", "laid_out", "learn_stacked", "why_alone"]


def why_alone(learner: Learner, rows: Batch | None = None) -> str:
    """Return why a learner cannot be learned in a stack with others of its kind; empty if it can.

    Args:
        learner: The learner.
        rows: Rows for a test of its model; the result is cached.

    Example:
        >>> from torch import nn
        >>> from incr_core.objectives import Regression
        >>> why_alone(Learner(nn.Sequential(nn.Linear(1, 1), nn.Dropout()), Regression(), torch.optim.SGD))
        'the model draws random numbers while it learns (Dropout)'
    """
    if learner.alone is None:
        learner.alone = _declared(learner)
    if not learner.alone and rows is not None and not learner.stacks:
        learner.alone = _tried(learner, rows.to(learner.device))
        learner.stacks = not learner.alone
    return learner.alone


def _declared(learner: Learner) -> str:
    """Return the reason from declared properties."""
    if learner.forwards.chance:
        return "the model draws random numbers while it learns (Dropout)"
    if learner.steps.smallest > 1:
        return "the model looks at several rows together (BatchNorm)"
    if not learner.objective.rowwise:
        return f"learner.objective: {type(learner.objective).__name__} looks at several rows together"
    if learner.shard[1] > 1 or learner.precision.name != "float32":
        return "learner.precision: only float32 is supported"
    if learner.steps.accumulate > 1:
        return "learner.accumulate"
    if sparse_weights(learner.model):
        return "the model has sparse gradients"
    if learner.id_tables:
        return "the model has tables of ids (features.ids)"
    for strategy in learner.strategies:
        assert isinstance(strategy, Strategy)
        if not (strategy.traits.stacks or strategy.off):
            return f"strategy {type(strategy).__name__} keeps what differs between clients, or looks at single rows"
    return why_not_stacked(learner.descent)


def _tried(learner: Learner, rows: Batch) -> str:
    """Test whether the model gives the same results for two stacked copies of rows and weights as for one."""
    rows = rows.slice(0, min(2, len(rows)))
    twice = rows.map(lambda value: torch.stack([value, value]))
    weights = [torch.stack([weight.detach()] * 2) for weight in learner.context.parameters]
    ones = torch.ones(2, len(rows), device=learner.device)
    buffers = [buffer for part in (learner.model, learner.objective) for buffer in part.buffers()]
    before = [(buffer.clone(), writes(buffer)) for buffer in buffers]
    learner.forwards.set_mode(training=True)
    try:
        with torch.no_grad():
            alone = learner.objective(learner.model(rows.inputs), rows.targets, ones[0])
            together = _losses(learner, weights, twice.inputs, twice.targets, ones)
    except Exception as error:  # a user's model may do anything inside vmap
        return f"torch.func.vmap does not take the model ({str(error).strip().splitlines()[0][:100]})"
    changed = [buffer for buffer, (_, count) in zip(buffers, before, strict=True) if writes(buffer) != count]
    if changed:
        for buffer, (value, _) in zip(buffers, before, strict=True):
            buffer.copy_(value)
        return "the model changes buffers while it learns"
    if not torch.allclose(together, alone.expand(2), rtol=1e-4, atol=1e-6, equal_nan=True):
        return "the model gives other outputs inside torch.func.vmap"
    return ""


@dataclass(slots=True)
class StackedSteps:
    """The batches of K learners, most steps first.

    Attributes:
        places: (K, T * B), place of each learner's rows among all rows, padded with its first row; on the rows' device.
        real: (K, T * B), whether a place is not padding; on the rows' device.
        taken: (K, T), rows of each batch; on the CPU.
        counts: (K,), number of steps of each learner.
        size: B.
    """

    places: Tensor
    real: Tensor
    taken: Tensor
    counts: list[int]
    size: int

    def active(self, step: int) -> int:
        """Return how many learners take this step: the first ones."""
        return sum(count > step for count in self.counts)


def learn_stacked(learners: Sequence[Learner], rows: Sequence[Batch], passes: int, anchor: Weights) -> list[Update]:
    """Learn an increment that all of these learners have begun, from the anchor, each as if alone, to rounding.

    The models keep their weights, so an anchor must be adopted before they are used again. The optimisers have the
    state after each learner's steps.

    Args:
        learners: Learners of one kind, with `why_alone` empty, that have adopted the anchor.
        rows: Rows of each, at least one.
        passes: Passes over the rows.
        anchor: The anchor.
    """
    first = learners[0]
    rates = [_rates(learner) for learner in learners]
    assert all(found == rates[0] for found in rates), "learners of one kind, following the same orders"
    order = sorted(range(len(learners)), key=lambda k: -learners[k].steps.left)
    ranked, theirs = [learners[k] for k in order], [rows[k] for k in order]
    counts = [len(batch) for batch in rows]
    sizes = torch.tensor([counts[k] for k in order])
    steps = torch.tensor([learner.steps.left for learner in ranked])
    orders = [learner.steps.places(len(own), passes) for learner, own in zip(ranked, theirs, strict=True)]
    layout = laid_out(sizes, sizes.cumsum(0) - sizes, steps, first.steps.batch_size, passes, orders, first.device)
    optimizer = StackedOptimizer([learner.descent for learner in ranked])
    stacked, losses = descend(first, cat(theirs).to(first.device), layout, optimizer)
    optimizer.close()
    return _updates(learners, counts, passes, order, stacked, losses.tolist(), anchor)


def descend(
    learner: Learner, rows: Batch, steps: StackedSteps, optimizer: StackedOptimizer
) -> tuple[list[Tensor], Tensor]:
    """Take the steps of K learners of the kind of `learner`, from its weights on.

    rows: those of all, which `steps` has the places of. Returns their weights, (K, ...) each, and the sums of their
    rows' losses, (K,) float64; both in the order of the steps.
    """
    count = len(steps.counts)
    stacked = [weight.detach().expand(count, *weight.shape).clone() for weight in learner.context.parameters]
    losses = torch.zeros(count, dtype=torch.float64, device=learner.device)
    learner.forwards.set_mode(training=True)
    context, active, weights = learner.context, 0, list[Tensor]()
    for step in range(max(steps.counts)):
        if (now := steps.active(step)) != active:
            active = now
            weights = [value[:active].detach().requires_grad_() for value in stacked]
            context = replace(learner.context, parameters=weights)  # type: ignore[arg-type]
        inputs, targets, weight, taken = _batches(rows, steps, step, active)
        found = _losses(learner, weights, inputs, targets, weight)
        found.sum().backward()  # type: ignore[no-untyped-call]
        losses[:active] += found.detach() * taken
        for hook in learner.hooks.after_backward:
            hook(context)
        if learner.descent.clip is not None:
            _clip(weights, learner.descent.clip)
        optimizer.step(weights)
    return stacked, losses


def _rates(learner: Learner) -> list[float]:
    """Return the settings that may differ between optimisers of one kind: learning rates and their factor."""
    return [learner.descent.factor, *(group["lr"] for group in learner.optimizer.param_groups)]


def _updates(
    learners: Sequence[Learner],
    rows: Sequence[int],
    passes: int,
    order: Sequence[int],
    stacked: Sequence[Tensor],
    losses: Sequence[float],
    anchor: Weights,
) -> list[Update]:
    """Return the updates, in the order of the given learners."""
    learned = {f"model.{name}": place for place, name in enumerate(learners[0].context.names)}
    assert learned.keys() <= anchor.keys(), "an anchor has every weight, under its first name"
    parts = [value.unbind(0) for value in stacked]
    updates: list[Update | None] = [None] * len(learners)
    for rank, place in enumerate(order):
        learner, count = learners[place], rows[place] * passes
        learner.context.raised = learner.descent.factor
        learner.context.step += learner.steps_in(rows[place], passes)
        weights = {name: parts[learned[name]][rank] if name in learned else value for name, value in anchor.items()}
        updates[place] = Update(weights, count, {"loss": losses[rank]})
    return [update for update in updates if update is not None]


def laid_out(
    sizes: Tensor,
    offsets: Tensor,
    steps: Tensor,
    batch_size: int,
    passes: int,
    orders: Sequence[Sequence[Tensor | None]],
    device: torch.device,
) -> StackedSteps:
    """The steps of K learners, most steps first, in the order that each would take them in alone.

    sizes, offsets, steps: (K,) how many rows each has, where they begin among those of all, and how many steps it
    takes. orders: the places of each one's rows in each pass, None where they come as they lie; none at all: all do.
    """
    size = min(batch_size, int(sizes.max()))
    places = offsets.unsqueeze(1).expand(len(sizes), int(steps.max()) * size).clone()
    real = torch.zeros_like(places, dtype=torch.bool)
    who = torch.arange(len(sizes)).repeat_interleave(sizes)
    at = torch.arange(len(who)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    begins = (steps // passes).repeat_interleave(sizes) * size
    lying: Sequence[Tensor] = ()
    for number in range(passes):
        given, found = [each[number] for each in orders], at
        if any(order is not None for order in given):
            lying = lying or torch.split(at, sizes.tolist())
            found = torch.cat([lie if order is None else order for lie, order in zip(lying, given, strict=True)])
        places[who, number * begins + at] = found + offsets.repeat_interleave(sizes)
        real[who, number * begins + at] = True
    taken = real.view(len(sizes), -1, size).sum(2)
    return StackedSteps(places.to(device), real.to(device), taken, steps.tolist(), size)


def _batches(rows: Batch, steps: StackedSteps, step: int, active: int) -> tuple[Inputs, Tensor, Tensor | None, Tensor]:
    """The batches of the first learners at a step: inputs and targets (A, B, ...), weights (A, B) or None, and how many
    rows each has."""
    cut = slice(step * steps.size, (step + 1) * steps.size)
    taken = steps.taken[:active, step]
    width = int(taken.max())
    real = steps.real[:active, cut][:, :width]
    index = steps.places[:active, cut][:, :width].reshape(-1)

    def picked(values: Tensor) -> Tensor:
        return values.index_select(0, index).view(active, width, *values.shape[1:])

    weight = None if rows.weights is None else picked(rows.weights)
    if int(taken.min()) < width:
        weight = real.float() if weight is None else weight * real
    return (
        map_inputs(picked, rows.inputs),
        picked(rows.targets),
        weight,
        taken.to(rows.targets.device, non_blocking=True),
    )


def _losses(
    learner: Learner, weights: Sequence[Tensor], inputs: Inputs, targets: Tensor, weight: Tensor | None
) -> Tensor:
    """Return the mean loss of each of A learners, (A,), of the kind of `learner`, with weights (A, ...)."""
    model, objective = learner.model, learner.objective

    def loss(own: dict[str, Tensor], inputs: Inputs, targets: Tensor, weight: Tensor | None) -> Tensor:
        found: Tensor = objective(functional_call(model, own, (inputs,)), targets, weight)
        return found

    named = dict(zip(learner.context.names, weights, strict=True))
    with _WeightsFirst():
        return _of_each(loss, named, inputs, targets, weight)


def _of_each(
    loss: Callable[..., Tensor], named: dict[str, Tensor], inputs: Inputs, targets: Tensor, weight: Tensor | None
) -> Tensor:
    result: Tensor = vmap(loss, in_dims=(0, 0, 0, None if weight is None else 0))(named, inputs, targets, weight)
    return result


class _WeightsFirst(TorchFunctionMode):
    """Computes linear layers as (W x^T)^T + b, so that the gradient of W has the memory layout of W.

    The gradient from x W^T is transposed, and copying it takes a quarter of a step's time.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Intercept the torch functions that a model calls."""
        if func is F.linear and not kwargs and len(args) == 3 and args[0].dim() == 2:
            x, weight, bias = args
            product = (weight @ x.mT).mT
            return product if bias is None else product + bias
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _clip(weights: Sequence[Tensor], largest: float) -> None:
    """Clip the gradient of each learner, as `clip_grad_norm_` does."""
    gradients = [weight.grad.flatten(1) for weight in weights if weight.grad is not None]
    norm = torch.stack([gradient.norm(dim=1) for gradient in gradients]).norm(dim=0)
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.unsqueeze(1))
