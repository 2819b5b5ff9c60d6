"""Base class of the strategies, and the context that their hooks receive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from incr_core._util import MadeWith
from incr_core.batch import Batch
from incr_core.numerics import as_reals, local, own_buffers
from incr_core.objectives import Objective
from incr_core.strategies._traits import Traits, check_traits

__all__ = ["Context", "PerWeight", "Strategy"]


@dataclass(slots=True)
class Context:
    """State of the learner that strategies may read during learning.

    Attributes:
        model: The model being learned.
        objective: Its objective.
        optimizer: Its optimiser.
        generator: Seeded source of every random choice; part of the learner's state.
        device: Device of the model.
        new: Rows of the current batch as received, before strategies append, weigh or set aside rows.
        increment: Number of the current increment, from 0.
        step: Optimiser steps taken since the learner was created.
        raised: Factor on the optimiser's learning rate, set by a drift action or by the number of replicas.
        names: Names of the trainable weights, in the model's order.
        parameters: The trainable weights, in the same order.
        rewound: Context manager that restores all random number generators and the modules' non-tensor state at exit.
    """

    model: nn.Module
    objective: Objective
    optimizer: Optimizer
    generator: torch.Generator
    device: torch.device
    new: Batch | None = None
    increment: int = -1
    step: int = 0
    raised: float = 1.0
    names: list[str] = field(default_factory=list)
    parameters: list[nn.Parameter] = field(default_factory=list)
    rewound: Callable[[], AbstractContextManager[None]] = nullcontext

    def per_new_row(self, ratio: float) -> int:
        """Return `ratio` remembered rows per new row, rounded and at least 1. Rows appended earlier do not count.

        Example:
            >>> ctx = Context(None, None, None, None, None, new=Batch(torch.zeros(8, 1), torch.zeros(8)))
            >>> ctx.per_new_row(0.5), ctx.per_new_row(0.01)
            (4, 1)
        """
        assert self.new is not None, "the learner's step sets it"
        return max(1, round(ratio * len(self.new)))

    def rates(self, index: list[int] | None = None) -> float | list[float]:
        """Return the learning rate of all weights, or those of the weights at `index` if there are several groups."""
        groups = self.optimizer.param_groups
        if len(groups) == 1:
            return float(groups[0]["lr"]) * self.raised
        rate = {id(weight): float(group["lr"]) * self.raised for group in groups for weight in group["params"]}
        return [rate[id(self.parameters[place])] for place in (index or range(len(self.parameters)))]

    def weights_and_gradients(self) -> tuple[list[Tensor], list[Tensor], list[int]]:
        """Return the local shards of the weights that have a gradient, their gradients, and their places in
        `parameters`.

        Complex weights are viewed as pairs of real numbers, here and in `PerWeight`.
        """
        index = [place for place, weight in enumerate(self.parameters) if weight.grad is not None]
        weights = [as_reals(local(self.parameters[place].detach())) for place in index]
        gradients = [as_reals(local(self.parameters[place].grad)) for place in index]  # type: ignore[arg-type]
        return weights, gradients, index


class PerWeight(nn.Module):
    """One zero-initialised tensor per trainable weight, in the shape of the weight or of its local shard.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> anchor = PerWeight()
        >>> anchor.allocate(Context(model, None, None, None, None, names=["weight"], parameters=[model.weight]))
        >>> [tuple(tensor.shape) for tensor in anchor.tensors()]
        [(1, 2)]
    """

    def allocate(self, ctx: Context) -> None:
        """Create the tensors."""
        for name, weight in zip(ctx.names, ctx.parameters, strict=True):
            # Names of buffers must not contain dots.
            self.register_buffer(name.replace(".", "/"), torch.zeros_like(as_reals(local(weight.detach()))))

    def tensors(self, index: list[int] | None = None) -> list[Tensor]:
        """Return all tensors, or those at `index`, in the order of `Context.parameters`."""
        found = [value for value in own_buffers(self).values() if value is not None]
        return found if index is None or len(index) == len(found) else [found[place] for place in index]


class Strategy(MadeWith, nn.Module):
    """Base class of the strategies. Override the hooks you need; the others cost nothing.

    The state of a strategy is its buffers, parameters and submodules, so saving it and moving it to a device need no
    extra code. The class attribute `traits` declares its properties.

    Example:
        >>> class Lasso(Strategy):
        ...     "Pull every weight towards zero by a constant: add strength * sum |w| to the loss."
        ...     def __init__(self, strength: float) -> None:
        ...         super().__init__()
        ...         self.strength = strength
        ...     def loss(self, ctx, batch, output):
        ...         return {"lasso": self.strength * sum(weight.abs().sum() for weight in ctx.parameters)}
    """

    traits: ClassVar[Traits] = Traits()
    """Properties that the learner, the job and other strategies rely on; see `Traits`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check the traits when the class is created, so that its author sees the error."""
        super().__init_subclass__(**kwargs)
        check_traits(cls, Strategy)

    @property
    def off(self) -> bool:
        """Whether the strategy is turned off. Then only `attach` is called, and no conflict with other strategies
        arises.

        A strategy that adds a term to the loss must override this, because a step with terms is computed differently
        from a step without.
        """
        return False

    def attach(self, ctx: Context) -> None:
        """Allocate state that depends on the model; called when the learner is created."""

    def begin(self, ctx: Context) -> None:
        """Start an increment."""

    def adopted(self, ctx: Context) -> None:
        """React to new weights that are an anchor shared by all participants: a round starts or ends. Gradients are
        off.
        """

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        """Append remembered rows to `batch`, whose own rows stay first, so that one forward serves new and old rows."""
        return batch

    def weigh(self, ctx: Context, batch: Batch, output: Tensor) -> Tensor | None:
        """Return a factor for the loss weight of each row, (B,), or None for no change. Gradients are off.

        The objective's loss becomes sum_i f_i w_i l_i / sum_i w_i: the divisor is the sum of the original weights. The
        factor of one row therefore does not change the contribution of another row, and accumulation stays exact if a
        factor depends only on its own row and on state that changes in `after_step`. Factors of mean 1 preserve the
        size of a step. A strategy that adds terms in `loss` weighs those terms itself.
        """
        return None

    def loss(self, ctx: Context, batch: Batch, output: Tensor) -> Mapping[str, Tensor]:
        """Return extra loss terms, each logged under its name. `batch` is augmented; `output` (B, ...) is for it."""
        return {}

    def after_backward(self, ctx: Context) -> None:
        """Edit the gradients of `ctx.parameters` in place."""

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """React to a step. Gradients are off. `batch` has the new rows only, `output` their outputs before it."""

    def end(self, ctx: Context, labelled: Batch) -> None:
        """Consolidate after the increment, whose rows are `labelled`."""

    def derive(
        self, weights: Mapping[str, Tensor], shared: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Compute weights and shared state that are functions of the merged shared state.

        The result must depend on the two arguments and on the strategy's own arguments only: a server, which has no
        model and never calls `attach`, computes it itself and need not trust any client.

        Args:
            weights: All weights that a round exchanges, by name, such as "model.0.bias".
            shared: Shared state of this strategy, merged.

        Returns:
            The weights and the shared state that change, by name.
        """
        return {}, {}

    def answering(self, ctx: Context) -> AbstractContextManager[None] | None:
        """Return a context in which the model has this participant's personal weights, or None if there are none.

        The participant predicts its rows with the personal weights. Learning, merging and publishing use the common
        model.
        """
        return None

    @property
    def keeps(self) -> float:
        """Approximate share of rows to which `weigh` gives a positive factor.

        If it is small, the learner runs backward on those rows only, which gives the same gradients at lower cost.
        """
        return 1.0

    def draws(self, rows: int, batches: int) -> int | None:
        """Return the approximate number of remembered rows drawn from each memory for `rows` new rows in `batches`
        batches.

        That many rows are fetched if rows are drawn from the memories of all replicas (`cluster.memory_scope`). None
        means that the strategy draws no rows but needs its whole memory, which therefore cannot include rows of other
        replicas.
        """
        return rows

    def extra_repr(self) -> str:
        """Return the arguments, for logs and reports."""
        return ", ".join(
            f"{name}={value}"
            for name, value in self.__dict__.items()
            if not name.startswith("_") and isinstance(value, int | float | str) and name != "training"
        )
